import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import OfRows, Ranking, estimate
from prefill_router.evaluation.comparison import (
    BEST,
    ENCODER_INCLUDED,
    ORACLE,
    SAVING,
    SAVING_AGAINST_BEST,
    SINGLE,
    against,
    compare_best_single,
    compare_choices,
    compare_probabilities,
)
from prefill_router.evaluation.results import Quantity, one
from prefill_router.metrics import expected_calibration_error

TARGETS = ("small", "middle", "large")
COST = np.array([1.0, 2.0, 6.0])
N_RESAMPLES = 60


@pytest.fixture(scope="module")
def groups():
    return np.random.default_rng(5).integers(200, size=600)


def resamples(rows, groups):
    """The rows of each resample, drawn group by group, as the documentation says."""
    rng, (unique, codes) = np.random.default_rng(0), np.unique(groups, return_inverse=True)
    members = [rows[codes == g] for g in range(len(unique))]
    draws = rng.integers(len(unique), size=(N_RESAMPLES, len(unique)))
    return [np.concatenate([members[g] for g in draw]) for draw in draws]


def check(row, statistic, rows, groups):
    """Compare a row of results with a statistic of rows, evaluated resample by resample."""
    drawn = [statistic(r) for r in resamples(rows, groups)]
    expected = [statistic(rows), *np.nanpercentile(drawn, (2.5, 97.5))]
    np.testing.assert_allclose([row.estimate, row.lower, row.upper], expected, rtol=1e-10)


def test_means_rankings_and_functions_of_rows_share_the_resamples(world, groups):
    true, noisy, correct = world
    rows = np.arange(600)
    scores, labels = noisy[:, 0], correct[:, 0]
    columns = {
        "mean": correct,
        "auc": Ranking(scores, labels),
        "median": OfRows(lambda r: np.median(true[r], axis=0), 600),
    }
    functions = {
        (Quantity("a"), Quantity("b")): lambda m: m["mean"][:, :2],
        Quantity("auc - mean"): lambda m: m["auc"] - m["mean"][:, 0],
        Quantity("auc * median"): lambda m: m["auc"] * m["median"][:, 2],
    }
    found = estimate(columns, functions, groups, n_resamples=N_RESAMPLES)
    for metric, statistic in {
        "a": lambda r: correct[r, 0].mean(),
        "b": lambda r: np.nanmean(correct[r, 1]),
        "auc - mean": lambda r: roc_auc_score(labels[r], scores[r]) - labels[r].mean(),
        "auc * median": lambda r: roc_auc_score(labels[r], scores[r]) * np.median(true[r, 2]),
    }.items():
        check(one(found, metric=metric), statistic, rows, groups)
    assert (found["n"] == 600).all()


def test_choices_equal_plain_formulas_resample_by_resample(world, groups):
    true, noisy, correct = world
    cost = COST * np.random.default_rng(1).uniform(0.5, 2, size=(600, 1))
    best = np.repeat([0, 2], 300)
    read = np.linspace(0.1, 0.2, 600)
    choices = {name: policy.tolerance(p, cost, 0.1) for name, p in (("a", true), ("b", noisy))}
    found = compare_choices(
        choices,
        correct,
        cost,
        best,
        groups,
        targets=TARGETS,
        pairs=[("a", "b"), ("a", BEST)],
        encoder_cost=read,
        n_resamples=N_RESAMPLES,
    )
    rows = np.flatnonzero(~np.isnan(correct).any(axis=1))

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
        (SAVING_AGAINST_BEST, ""): lambda r: 1 - paid(r, a) / paid(r, best),
        (SAVING_AGAINST_BEST + ENCODER_INCLUDED, BEST): lambda r: (
            -(paid(r, a) + read[r].mean()) / paid(r, best) + 1
        ),
    }.items():
        check(one(found, metric=metric, router="a", versus=versus), statistic, rows, groups[rows])
    headroom = one(found, metric="headroom", router=ORACLE)
    check(headroom, lambda r: correct[r].max(axis=1).mean() - right(r, best), rows, groups[rows])
    for k, target in enumerate(TARGETS):
        row = one(found, metric="accuracy", router=SINGLE, target=target)
        assert row.estimate == pytest.approx(correct[rows, k].mean())
    assert (found["n"] == len(rows)).all()


def test_each_group_counts_once_where_asked(world, groups):
    _, _, correct = world
    choice = np.ones(600, dtype=int)
    found = compare_choices(
        {"a": choice}, correct, COST, 0, groups, each_group_once=True, n_resamples=5
    )
    rows = np.flatnonzero(~np.isnan(correct).any(axis=1))
    by_group = [correct[rows[groups[rows] == g], 1].mean() for g in np.unique(groups[rows])]
    row = one(found, metric="accuracy", router="a")
    assert row.estimate == pytest.approx(np.mean(by_group)) and row.n == len(rows)


def test_references_are_what_they_are_by_definition(world):
    correct, cost = world[2], COST[::-1]  # the cheapest last, where a tie would not find it
    first = {"a": np.zeros(600, dtype=int)}
    found = compare_choices(first, correct, cost, 0, targets=TARGETS, n_resamples=20)
    for metric, router, value in (("gap closed", ORACLE, 1), ("gap closed", BEST, 0)):
        row = one(found, metric=metric, router=router)
        assert (row.estimate, row.lower, row.upper) == pytest.approx((value, value, value))
    assert one(found, metric=SAVING, router=SINGLE, target="small").upper == pytest.approx(0)
    y = correct[~np.isnan(correct).any(axis=1)]
    right = np.where(y == 1, cost, np.inf).min(axis=1)
    row = one(found, metric="mean cost", router=ORACLE)
    assert row.estimate == pytest.approx(np.where(np.isinf(right), cost.min(), right).mean())


def test_without_prices_nothing_is_said_of_costs(world):
    found = compare_choices({"a": np.zeros(600, int)}, world[2], None, 0, n_resamples=5)
    assert set(found["metric"]) == {"accuracy", "gap closed", "regret", "headroom"}


@pytest.mark.parametrize(
    ("choices", "pairs", "message"),
    [
        ({ORACLE: np.zeros(600, int)}, [], "reserved"),
        ({"trunk": np.zeros(600, int)}, [("trunks", BEST)], "Unknown router 'trunks'.*trunk"),
        ({"a": np.full(600, 3)}, [], "chooses a target outside 0..2"),
    ],
)
def test_misuse_is_refused(world, choices, pairs, message):
    with pytest.raises(InputError, match=message):
        compare_choices(choices, world[2], COST, 0, pairs=pairs)
    with pytest.raises(InputError, match="Unknown primary router 'b'"):
        against("b", ["a"])
    with pytest.raises(InputError, match="same rows"):
        estimate({"a": np.ones(3), "b": np.ones(4)}, {})
    with pytest.raises(InputError, match="no rows"):
        estimate({"a": np.ones(0)}, {})


def test_probabilities_equal_scikit_learn_resample_by_resample(world, groups):
    true, noisy, correct = world
    folds = np.random.default_rng(2).integers(2, size=600)
    found = compare_probabilities(
        {"a": true, "b": noisy},
        correct,
        groups,
        targets=TARGETS,
        folds=folds,
        pairs=[("a", "b")],
        n_resamples=N_RESAMPLES,
    )

    def auc(r, p, k):
        ordered, pairs = 0, 0
        for fold in (0, 1):
            here = r[(folds[r] == fold) & ~np.isnan(correct[r, k])]
            n = correct[here, k].sum() * (1 - correct[here, k]).sum()
            ordered += n * roc_auc_score(correct[here, k], p[here, k])
            pairs += n
        return ordered / pairs

    def macro(metric, p):
        return lambda r: np.mean([metric(r, p, k) for k in range(3)])

    def brier(r, p, k):
        return np.nanmean((p[r, k] - correct[r, k]) ** 2)

    rows = np.arange(600)
    for metric, function in (("AUC", auc), ("Brier", brier)):
        by_target = one(found, metric=metric, router="b", target="middle")
        check(by_target, lambda r, f=function: f(r, noisy, 1), rows, groups)
        check(one(found, metric=metric, router="a"), macro(function, true), rows, groups)
        difference = one(found, metric=metric, router="a", versus="b")
        a, b = macro(function, true), macro(function, noisy)
        check(difference, lambda r, a=a, b=b: a(r) - b(r), rows, groups)
        assert by_target.n == 588 and difference.n == 600
    for name, p in (("a", true), ("b", noisy)):
        row = one(found, metric="ECE", router=name, target="small")
        assert row.estimate == pytest.approx(expected_calibration_error(p, correct)[0])
        assert row.lower < row.estimate < row.upper  # centred: noise only adds to it


def test_a_query_without_a_prediction_is_not_left_out_silently():
    correct = np.tile([[0.0, 1.0], [1.0, 0.0]], (4, 1))
    p = np.where(np.arange(8)[:, None] < 3, np.nan, 0.5) * np.ones((8, 2))
    with pytest.raises(InputError, match="probability is NaN"):
        compare_probabilities({"a": p}, correct, targets=["x", "y"], n_resamples=5)


def test_the_best_of_the_test_split_is_chosen_anew_in_each_resample(world, groups):
    correct = world[2][~np.isnan(world[2]).any(axis=1)]
    g = groups[: len(correct)]
    found = compare_best_single(correct, 1, g, n_resamples=N_RESAMPLES)
    row = one(found, metric="accuracy", router="chosen on test", versus="chosen on training")

    def optimism(r):
        return correct[r].mean(axis=0).max() - correct[r, 1].mean()

    check(row, optimism, np.arange(len(correct)), g)
    assert row.lower >= 0
