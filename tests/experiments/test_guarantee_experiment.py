import numpy as np
import pytest
import tiny_studies
from tiny_studies import relabelled

from prefill_router import policy
from prefill_router.evaluation.comparison import BEST, SAVING_AGAINST_BEST
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import guarantee as it
from prefill_router.router.guarantee import TAUS, certify

pytestmark = pytest.mark.usefixtures("own_artifacts")
FIVE = "at most 5 points"


@pytest.fixture(scope="module")
def knowing(study):
    """P(correct) of a router that is nearly always right about who is right."""
    rng = np.random.default_rng(0)
    correct = study.labels.correct
    return [np.clip(correct * 0.8 + rng.uniform(0, 0.25, correct.shape), 0, 1) for _ in "ab"]


def test_halves_share_no_group_and_leave_no_complete_query_out(study):
    correct = study.labels.correct.copy()
    correct[::7, 0] = np.nan
    holed = relabelled(study, correct=correct)
    for fold, split in enumerate(study.splits):
        certifying, reporting = it.halves(holed, fold)
        both = np.sort(np.concatenate([certifying, reporting]))
        complete = split.test[~np.isnan(correct[split.test]).any(axis=1)]
        np.testing.assert_array_equal(both, complete)
        groups = study.labels.group
        assert not set(groups[certifying]) & set(groups[reporting])
        sizes = [len(set(groups[rows])) for rows in (certifying, reporting)]
        assert sizes[0] - sizes[1] in (0, 1)


def test_a_certificate_is_that_of_its_half_and_reported_on_the_other(study, knowing):
    found = it.evaluate_guarantee(study, knowing, (0.05,))
    right = single = n = 0
    for fold in range(2):
        certifying, reporting = it.halves(study, fold)
        cost, best = study.expected_costs(fold), study.best_single[fold]
        promise = certify(
            knowing[fold][certifying],
            study.labels.correct[certifying],
            cost[certifying],
            best,
            study.labels.group[certifying],
            targets=study.labels.targets,
            max_loss=0.05,
        )
        assert promise.tau is not None
        row = one(found, metric=it.TAU, router=FIVE, x=fold + 1)
        assert (row.estimate, row.n) == (promise.tau, len(certifying))
        assert one(found, metric=it.GROUPS, x=fold + 1).estimate == promise.n_groups
        assert one(found, metric=it.FIRST_P, x=fold + 1).estimate == promise.p_values[0]
        chosen = policy.tolerance(knowing[fold][reporting], cost[reporting], promise.tau)
        right += study.labels.correct[reporting, chosen].sum()
        single += study.labels.correct[reporting, best].sum()
        n += len(reporting)
    accuracy = one(found, metric="accuracy", router=FIVE, split=it.REPORTING)
    assert (accuracy.estimate, accuracy.n) == (pytest.approx(right / n), n)
    lead = one(found, metric="accuracy", router=FIVE, versus=BEST)
    assert lead.estimate == pytest.approx((right - single) / n)


def test_what_reports_certifies_nothing(study, knowing):
    before = it.evaluate_guarantee(study, knowing, (0.05,))
    reporting = np.concatenate([it.halves(study, fold)[1] for fold in range(2)])
    correct = study.labels.correct.copy()
    correct[reporting] = 1 - correct[reporting]
    other = relabelled(study, correct=correct)
    other.__dict__["best_single"] = study.best_single  # folds train on one another's queries
    after = it.evaluate_guarantee(other, knowing, (0.05,))
    certificates = [select(found, split=it.CERTIFYING) for found in (before, after)]
    assert certificates[0].equals(certificates[1])
    accuracies = [one(found, metric="accuracy", router=FIVE) for found in (before, after)]
    assert accuracies[0].estimate != accuracies[1].estimate


def test_where_nothing_is_certified_the_best_single_target_is_asked(study):
    wrong = [1 - study.labels.correct for _ in range(2)]
    found = it.evaluate_guarantee(study, wrong)
    taus = select(found, metric=it.TAU)["estimate"]
    assert len(taus) == 6 and taus.isna().all()
    leads = select(found, metric="accuracy", versus=BEST)
    assert leads["router"].tolist() == [it.allowed(loss) for loss in it.LOSSES]
    assert not leads[["estimate", "lower", "upper"]].to_numpy().any()


def test_more_labels_certify_more_and_all_losses_see_the_same(study, knowing):
    found = it.evaluate_labels_needed(study, knowing, (0.01, 0.2), repetitions=4)
    shares = select(found, metric=it.CERTIFIED)
    strict, lax = (shares[shares["router"] == it.allowed(loss)] for loss in (0.01, 0.2))
    assert strict["n"].tolist() == [8, 8, 8, 2]
    assert strict["x"].tolist() == lax["x"].tolist()
    assert strict["x"].iloc[-1] == study.labels.n_queries / 2
    assert (strict["estimate"].to_numpy() <= lax["estimate"].to_numpy()).all()
    assert lax["estimate"].iloc[-1] == 1 > strict["estimate"].iloc[0]
    drawn, whole = shares[shares["n"] > 2], shares[shares["n"] == 2]
    assert ((drawn["lower"] <= drawn["estimate"]) & (drawn["estimate"] <= drawn["upper"])).all()
    assert whole[["lower", "upper"]].isna().all(axis=None)
    tau = one(found, metric=it.MEDIAN_TAU, router=it.allowed(0.2), x=lax["x"].iloc[-1])
    assert 0 < tau.lower <= tau.estimate <= tau.upper <= 1


def test_without_prices_only_the_likeliest_target_can_be_certified(study, tmp_path):
    assert it.certify_rows(study, [np.ones((240, 3))], 0, np.arange(2))["taus"] == TAUS
    free = tiny_studies.study(tmp_path, prices="")
    knows = [free.labels.correct * 0.9 + 0.05]
    found = it.evaluate_guarantee(free, knows, (0.05,))
    assert one(found, metric=it.TAU, router=FIVE, x=1).estimate == 0
    assert select(found, metric=SAVING_AGAINST_BEST).empty
    needed = it.evaluate_labels_needed(free, knows, (0.05,), 2)
    assert needed["estimate"].iloc[-1] == 1 and set(needed["metric"]) == {it.CERTIFIED}


@pytest.mark.parametrize("folds", [1, 3])
def test_few_queries_of_two_targets_without_prices(tmp_path, folds):
    table = tiny_studies.label_table(60, tiny_studies.TARGETS[:2])
    table.loc[::9, "is_correct"] = np.nan
    table = table.dropna(subset="is_correct")
    study = tiny_studies.study(tmp_path, table, prices="", outer_folds=folds)
    p = [np.full(study.labels.correct.shape, 0.5)] * folds
    taus = select(it.evaluate_guarantee(study, p), metric=it.TAU)
    assert taus.groupby("router")["x"].apply(list).tolist() == [list(range(1, folds + 1))] * 3
    needed = it.evaluate_labels_needed(study, p, repetitions=2)
    assert not needed.duplicated(["metric", "router", "x"]).any()


def drawn_labels(n=1500):
    """What `certify` is told of a cheap, a middling and a dear target and what is known of them."""
    rng = np.random.default_rng(0)
    logits = np.array([-0.4, 0.1, 0.5]) + rng.normal(size=(n, 1)) + rng.normal(size=(n, 3))
    believed = logits + 2 * rng.normal(size=logits.shape)
    truth, p = (1 / (1 + np.exp(-z)) for z in (logits, believed))
    return {
        "p": p, "correct": (rng.random((n, 3)) < truth).astype(float), "best_single": 2,
        "cost": np.array([1.0, 3.0, 9.0]), "groups": np.arange(n) // 2, "targets": ["a", "b", "c"],
    }  # fmt: skip


def test_fewer_labels_certify_less():
    table = it.labels_needed(drawn_labels(), (0.001, 0.1), (0.05, 1.0), 5)
    assert table["groups"].tolist() == [38, 750, 38, 750]
    assert table["queries"].tolist() == [76, 1500, 76, 1500]
    few, all_, _, generous = table.to_dict("records")
    assert few["certified"] < 1 and np.isnan(few["tau"]) == (few["certified"] == 0)
    assert generous["certified"] == 1 and generous["tau"] > 0
    assert not all_["tau"] > generous["tau"]
    assert 1 <= generous["cost"] <= 9
    once = it.labels_needed(drawn_labels() | {"taus": (0.0,)}, (0.1,), (1.0,))
    assert once[["certified", "tau"]].to_numpy().tolist() == [[1.0, 0.0]]
    few_groups = it.labels_needed(drawn_labels(8), (0.05,), repetitions=2)
    assert few_groups["groups"].tolist() == [1, 1, 2, 4]  # one at least
