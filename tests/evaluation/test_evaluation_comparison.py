from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation import bootstrap, comparison, curves
from prefill_router.evaluation.bootstrap import OfRows, Ranking
from prefill_router.evaluation.comparison import BEST, ORACLE, SAVING, SINGLE, Evaluation
from prefill_router.evaluation.results import Quantity, one
from prefill_router.metrics import expected_calibration_error

TARGETS = ("small", "middle", "large")
COST = np.array([1.0, 2.0, 6.0])
N_RESAMPLES = 60


@pytest.fixture(scope="module")
def true():
    return np.random.default_rng(0).beta(1.2, 0.9, size=(600, 3))


@pytest.fixture(scope="module")
def noisy(true):
    return np.clip(true + np.random.default_rng(1).normal(0, 0.5, true.shape), 0, 1)


@pytest.fixture(scope="module")
def at(true):
    """Queries in groups, right by their true p, each with costs and a best single target."""
    rng = np.random.default_rng(5)
    correct = (rng.random((600, 3)) < true).astype(float)
    correct[::50, 1] = np.nan
    groups, cost = rng.integers(200, size=600), COST * rng.uniform(0.5, 2, size=(600, 1))
    best, folds = np.repeat([0, 2], 300), rng.integers(2, size=600)
    return Evaluation(correct, cost, groups, best, TARGETS, folds, n_resamples=N_RESAMPLES)


@pytest.fixture(scope="module")
def complete(at):
    """Numbers of the queries labelled for every target."""
    return np.flatnonzero(~np.isnan(at.correct).any(axis=1))


def resamples(rows, groups):
    """The rows of each resample, drawn group by group, as the documentation says."""
    rng, (unique, codes) = np.random.default_rng(0), np.unique(groups, return_inverse=True)
    members = [rows[codes == g] for g in range(len(unique))]
    draws = rng.integers(len(unique), size=(N_RESAMPLES, len(unique)))
    return [np.concatenate([members[g] for g in draw]) for draw in draws]


def check(row, statistic, rows, groups):
    """Compare a row of results with a statistic of rows, evaluated resample by resample."""
    drawn = [statistic(r) for r in resamples(rows, groups[rows])]
    expected = [statistic(rows), *np.nanpercentile(drawn, (2.5, 97.5))]
    np.testing.assert_allclose([row.estimate, row.lower, row.upper], expected, rtol=1e-10)


def test_some_queries_and_the_complete_ones_keep_what_is_known_of_them():
    correct = [[1, 0], [np.nan, 1], [0, 0]]
    at = Evaluation(correct, np.arange(6.0).reshape(3, 2), ["b", "a", "b"], [0, 1, 1], ["x", "y"])
    rows, kept = at.complete()
    assert rows.tolist() == [True, False, True]
    assert kept.correct.tolist() == [[1, 0], [0, 0]] and kept.cost.tolist() == [[0, 1], [4, 5]]
    assert kept.groups.tolist() == ["b", "b"] and kept.group_codes.tolist() == [0, 0]
    assert kept.best_single.tolist() == [0, 1] and kept.targets == ["x", "y"]
    alike = Evaluation(correct, [2.0, 3.0], best_single=1)
    assert alike.take([0, 0, 1]).cost == [2.0, 3.0] and alike.take([0, 2]).best_single == 1
    assert alike.complete()[1].cost.tolist() == [[2, 3], [2, 3]]
    assert alike.group_codes.tolist() == [0, 1, 2]


def test_means_rankings_and_functions_of_rows_share_the_resamples(true, noisy, at):
    scores, labels = noisy[:, 0], at.correct[:, 0]
    columns = {
        "mean": at.correct,
        "auc": Ranking(scores, labels),
        "median": OfRows(lambda r: np.median(true[r], axis=0), 600),
    }
    functions = {
        (Quantity("a"), Quantity("b")): lambda m: m["mean"][:, :2],
        Quantity("auc - mean"): lambda m: m["auc"] - m["mean"][:, 0],
        Quantity("auc * median"): lambda m: m["auc"] * m["median"][:, 2],
    }
    found = replace(at, split="here").estimate(columns, functions)
    for metric, statistic in {
        "a": lambda r: labels[r].mean(),
        "b": lambda r: np.nanmean(at.correct[r, 1]),
        "auc - mean": lambda r: roc_auc_score(labels[r], scores[r]) - labels[r].mean(),
        "auc * median": lambda r: roc_auc_score(labels[r], scores[r]) * np.median(true[r, 2]),
    }.items():
        check(one(found, metric=metric), statistic, np.arange(600), at.groups)
    assert (found["n"] == 600).all() and (found["split"] == "here").all()


def test_choices_equal_plain_formulas_resample_by_resample(true, noisy, at, complete):
    read, cost, correct, best = np.linspace(0.1, 0.2, 600), at.cost, at.correct, at.best_single
    choices = {name: policy.tolerance(p, cost, 0.1) for name, p in (("a", true), ("b", noisy))}
    found = at.choices(choices, [("a", "b"), ("a", BEST)], encoder_cost=read)

    def right(r, choice):
        return correct[r, choice[r]].mean()

    def gap(r, choice):
        base = right(r, best)
        return (right(r, choice) - base) / (correct[r].max(axis=1).mean() - base)

    def paid(r, choice):
        return cost[r, choice[r]].mean()

    a, b = choices.values()
    for (metric, versus), statistic in {
        ("accuracy", ""): lambda r: right(r, a),
        ("accuracy", BEST): lambda r: right(r, a) - right(r, best),
        ("gap closed", ""): lambda r: gap(r, a),
        ("gap closed", "b"): lambda r: gap(r, a) - gap(r, b),
        ("regret", ""): lambda r: (correct[r].max(axis=1) - correct[r, a[r]]).mean(),
        ("mean cost", "b"): lambda r: paid(r, a) - paid(r, b),
        (SAVING, ""): lambda r: 1 - paid(r, a) / cost[r, 2].mean(),
        (comparison.SAVING_AGAINST_BEST, ""): lambda r: 1 - paid(r, a) / paid(r, best),
        (comparison.SAVING_AGAINST_BEST + comparison.ENCODER_INCLUDED, BEST): lambda r: (
            -(paid(r, a) + read[r].mean()) / paid(r, best) + 1
        ),
    }.items():
        row = one(found, metric=metric, router="a", versus=versus)
        check(row, statistic, complete, at.groups)
    headroom = one(found, metric="headroom", router=ORACLE)
    check(headroom, lambda r: correct[r].max(axis=1).mean() - right(r, best), complete, at.groups)
    for k, target in enumerate(TARGETS):
        row = one(found, metric="accuracy", router=SINGLE, target=target)
        assert row.estimate == pytest.approx(correct[complete, k].mean())
    assert (found["n"] == len(complete)).all()


def test_each_group_counts_once_where_asked(at, complete):
    found = at.choices({"a": np.ones(600, dtype=int)}, each_group_once=True)
    by_group = pd.Series(at.correct[complete, 1]).groupby(at.groups[complete]).mean()
    row = one(found, metric="accuracy", router="a")
    assert row.estimate == pytest.approx(by_group.mean()) and row.n == len(complete)


def test_references_are_what_they_are_by_definition(at, complete):
    cost = COST[::-1]  # the cheapest last, where a tie would not find it
    found = replace(at, cost=cost, best_single=0).choices({"a": np.zeros(600, dtype=int)})
    for metric, router, value in (("gap closed", ORACLE, 1), ("gap closed", BEST, 0)):
        row = one(found, metric=metric, router=router)
        assert (row.estimate, row.lower, row.upper) == pytest.approx((value, value, value))
    assert one(found, metric=SAVING, router=SINGLE, target="small").upper == pytest.approx(0)
    right = np.where(at.correct[complete] == 1, cost, np.inf).min(axis=1)
    row = one(found, metric="mean cost", router=ORACLE)
    assert row.estimate == pytest.approx(np.where(np.isinf(right), cost.min(), right).mean())
    free = replace(at, cost=None).choices({})
    assert set(free["metric"]) == {"accuracy", "gap closed", "regret", "headroom"}


ZEROS = np.zeros(600, int)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda at: at.choices({ORACLE: ZEROS}), "reserved"),
        (lambda at: at.choices({"trunk": ZEROS}, [("trunks", BEST)]), "Unknown router 'trunks'.*k"),
        (lambda at: at.choices({"a": ZEROS + 3}), "chooses a target outside 0..2"),
        (lambda at: at.choices({"a": ZEROS - 1}), "chooses a target outside 0..2"),
        (lambda at: replace(at, best_single=None).choices({}), "Give best_single"),
        (lambda at: at.probabilities({"a": np.full((600, 3), np.nan)}), "probability is NaN"),
        (lambda at: at.probabilities({"a": np.zeros((600, 2))}), "differ in shape"),
        (lambda at: at.significance({"a": ZEROS}, "x"), "Unknown primary router 'x'"),
        (lambda at: at.significance({"a": ZEROS}, "a"), "'a' has no other router"),
        (lambda at: at.estimate({"a": np.ones(3), "b": np.ones(4)}, {}), "same rows"),
        (lambda at: at.estimate({"a": np.ones(0)}, {}), "no rows"),
        (lambda at: at.estimate({"a": np.ones(3)}, {}), "600 groups for 3 rows"),
        (lambda at: Evaluation([[1, np.nan]]).complete(), "labelled for every target"),
        (lambda at: replace(at, cost=[1, np.nan, 2]).curves({}), "unknown price is not 0"),
        (lambda at: replace(at, cost=None).curves({}, at.cost), "Give cost"),
        (lambda at: replace(at, best_single=None).choice_of_best_single(), "Give best_single"),
        (lambda at: replace(at, folds=at.folds[:20]), "folds has 20 rows, correct 600"),
        (lambda at: replace(at, targets=("small", "large")), "2 targets are named, of 3"),
        (lambda at: replace(at, correct=3 * at.correct), "of 0, 1 and NaN"),
    ],
)
def test_misuse_is_refused(at, misuse, message):
    with pytest.raises(InputError, match=message):
        misuse(at)


def test_probabilities_equal_scikit_learn_resample_by_resample(true, noisy, at):
    correct, rows = at.correct, np.arange(600)
    found = at.probabilities({"a": true, "b": noisy}, [("a", "b")])

    def auc(r, p, k):
        ordered, pairs = 0, 0
        for fold in (0, 1):
            here = r[(at.folds[r] == fold) & ~np.isnan(correct[r, k])]
            n = correct[here, k].sum() * (1 - correct[here, k]).sum()
            ordered += n * roc_auc_score(correct[here, k], p[here, k])
            pairs += n
        return ordered / pairs

    def brier(r, p, k):
        return np.nanmean((p[r, k] - correct[r, k]) ** 2)

    for metric, function in (("AUC", auc), ("Brier", brier)):

        def macro(r, p, f=function):
            return np.mean([f(r, p, k) for k in range(3)])

        by_target = one(found, metric=metric, router="b", target="middle")
        check(by_target, lambda r, f=function: f(r, noisy, 1), rows, at.groups)
        check(one(found, metric=metric, router="a"), lambda r: macro(r, true), rows, at.groups)
        difference = one(found, metric=metric, router="a", versus="b")
        check(difference, lambda r: macro(r, true) - macro(r, noisy), rows, at.groups)
        assert by_target.n == 588 and difference.n == 600
    for name, p in (("a", true), ("b", noisy)):
        row = one(found, metric="ECE", router=name, target="small")
        assert row.estimate == pytest.approx(expected_calibration_error(p, correct)[0])
        assert row.lower < row.estimate < row.upper  # centred: noise only adds to it
    unnamed = replace(at, targets=()).probabilities({"a": true}, only=["AUC"])
    assert unnamed["target"].tolist() == ["0", "1", "2", ""]


def test_the_best_of_the_test_split_is_chosen_anew_in_each_resample(at, complete):
    about = {"router": comparison.ON_TEST, "versus": comparison.ON_TRAINING}

    def optimism(r):
        return at.correct[r].mean(axis=0).max() - at.correct[r, at.best_single[r]].mean()

    check(one(at.choice_of_best_single(), **about), optimism, complete, at.groups)
    assert one(replace(at, best_single=1).choice_of_best_single(), **about).lower >= 0


def estimates(found):
    return found.set_index(["router", "metric"])["estimate"]


def test_summaries_of_curves_have_intervals_and_rank_the_true_p_first(true, noisy, at):
    p = {"true": true, "noisy": noisy}
    at = replace(at, cost=COST, groups=None, best_single=None, n_resamples=30)
    found = at.curves(p, pairs=[("true", "noisy")], weak_strong=(0, 2))
    for metric in ("P-AUCCC", "MDP-AUCCC", "AIQ", "APGR"):
        a, b = (one(found, metric=metric, router=name) for name in p)
        difference = one(found, metric=metric, router="true", versus="noisy")
        assert a.estimate > b.estimate and a.lower < a.estimate < a.upper
        assert difference.estimate == pytest.approx(a.estimate - b.estimate)
        assert difference.upper - difference.lower < a.upper - a.lower + b.upper - b.lower
    assert len(found) == 3 * 7


@pytest.mark.parametrize("cost", [np.zeros(3), np.full(3, 2.0)], ids=["zero", "equal"])
def test_zero_and_equal_costs_leave_areas_undefined_and_nothing_else(true, at, cost):
    at = replace(at, cost=cost, n_resamples=5)
    rows = estimates(at.curves({"r": true}, weak_strong=(0, 2)))["r"]
    assert rows[["P-AUCCC", "MDP-AUCCC", "PDP-AUCCC", "AIQ"]].isna().all()
    assert np.isfinite(rows["APGR"])
    assert np.isnan(rows["saving at equal accuracy (best)"]) == (cost[0] == 0)


@pytest.fixture(scope="module")
def paid(at):
    """An evaluation whose costs are far from what is expected of them, and the latter."""
    rng = np.random.default_rng(1)
    cost = COST * rng.lognormal(0, 1, at.correct.shape)
    return replace(at, cost=cost, n_resamples=100), cost * rng.lognormal(0, 1, cost.shape)


def test_the_policy_looks_at_expected_costs_and_pays_the_actual_ones(true, noisy, paid, complete):
    """Every summary equals that of `curves` on the complete rows; AIQ is over one range for all."""
    at, expected = paid
    routers = {"true": true, "noisy": noisy, "dearest": at.cost / at.cost.max()}
    found = replace(at, n_resamples=2).curves(routers, expected, weak_strong=(0, 2))
    found = estimates(found)
    correct, cost = at.correct[complete], at.cost[complete]
    single = cost.mean(axis=0), correct.mean(axis=0)
    points = {
        name: curves.routing_curve(p[complete], correct, cost, expected[complete]).points
        for name, p in routers.items()
    }
    shared = curves.shared_cost_range(single, *points.values())
    cells = np.arange(len(complete)), at.best_single[complete]
    for name, curve in points.items():
        recovered = curves.pgr_curve(routers[name][complete], correct, 0, 2)
        best = cost[cells].mean(), correct[cells].mean()
        want = curves.summarise(curve, single, shared, recovered, best)
        assert found[name].to_dict() == pytest.approx(want, nan_ok=True) and len(want) == 9
    own = {name: curves.shared_cost_range(single, curve) for name, curve in points.items()}
    assert len(set(own.values())) > 1  # else a range of each router's own would do, too


def test_a_band_lies_on_the_curve_of_expected_and_actual_costs(true, paid, complete):
    at, expected = paid
    band = at.band(true, expected, n_points=12)
    arrays = (values[complete] for values in (true, at.correct, at.cost, expected))
    curve = curves.routing_curve(*arrays)
    places = np.round(np.linspace(0, len(curve.tau) - 1, 12)).astype(int)
    assert band["estimate"].to_numpy() == pytest.approx(curve.accuracy[places])
    assert band["x"].to_numpy() == pytest.approx(curve.cost[places])
    assert ((band["lower"] < band["estimate"]) & (band["estimate"] < band["upper"])).all()


def test_the_primary_is_tested_against_each_other_router():
    rng = np.random.default_rng(3)
    correct = (rng.random((400, 2)) < [0.8, 0.5]).astype(float)
    correct[:10, 1] = np.nan
    rare = (np.arange(400) % 40 == 0).astype(int)
    choices = {"same": ZEROS[:400], "poor": ZEROS[:400] + 1, "mine": ZEROS[:400], "nearly": rare}
    groups = np.arange(400) // 5
    found = Evaluation(correct, groups=groups).significance(choices, "mine", n_resamples=999)
    table = found.pivot(index="versus", columns="metric", values="estimate")
    assert set(table.index) == {"same", "poor", "nearly"} and (found["n"] == 390).all()
    columns = list(comparison.TESTED)
    lead = (correct[:, 0] - correct[:, 1])[10:]
    detectable = bootstrap.detectable_difference(lead, groups[10:])
    assert table.loc["poor", columns].tolist() == pytest.approx([0.002, 0.006, detectable])
    nearly = bootstrap.p_values((lead * rare[10:])[:, None], groups[10:], n_resamples=999)
    p, holm, _ = table[columns].to_numpy().T
    assert p[list(table.index).index("nearly")] == nearly and 0.002 < nearly < 1
    np.testing.assert_allclose(holm, bootstrap.holm(p))
    assert table.loc["same", [columns[0], columns[2]]].tolist() == [1, 0]
