import numpy as np
import pytest
import tiny_studies
from tiny_studies import flipped, relabelled

from prefill_router import policy
from prefill_router.evaluation.comparison import BEST, SAVING_AGAINST_BEST, Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import guarantee as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.router.guarantee import certify

FIVE = "at most 5 points"


@pytest.fixture(scope="module")
def knowing(study):
    """P(correct) of a router that is nearly always right about who is right."""
    rng = np.random.default_rng(0)
    correct = study.labels.correct
    return [np.clip(correct * 0.8 + rng.uniform(0, 0.25, correct.shape), 0, 1) for _ in "ab"]


def halves(study, p):
    """The rows that certify, and those that report, in each fold."""
    parts = [(at.rows, it.first_half(at)) for at, _ in it.folds(study, p)]
    return [(rows[half], rows[~half]) for rows, half in parts]


def test_a_certificate_is_that_of_its_half_and_reported_on_the_other(study, knowing):
    found = it.evaluate_guarantee(study, knowing, (0.05,))
    labels, right, single, n = study.labels, 0, 0, 0
    for fold, (certifying, reporting) in enumerate(halves(study, knowing)):
        cost, best = study.expected_costs(fold), study.best_single[fold]
        known = (labels.correct, cost, labels.group, best, labels.targets)
        at = Evaluation(*known).take(certifying)
        promise = certify(at, knowing[fold][certifying], max_loss=0.05)
        row = one(found, metric=it.TAU, router=FIVE, x=fold + 1)
        assert (row.estimate, row.n) == (promise.tau, len(certifying))
        chosen = policy.tolerance(knowing[fold][reporting], cost[reporting], promise.tau)
        right += labels.correct[reporting, chosen].sum()
        single += labels.correct[reporting, best].sum()
        n += len(reporting)
    accuracy = one(found, metric="accuracy", router=FIVE, split=it.REPORTING)
    assert (accuracy.estimate, accuracy.n) == (pytest.approx(right / n), n)
    lead = one(found, metric="accuracy", router=FIVE, versus=BEST)
    assert lead.estimate == pytest.approx((right - single) / n)


def test_what_reports_certifies_nothing(study, knowing):
    correct, group = study.labels.correct.copy(), study.labels.group
    for split, (certifying, reporting) in zip(study.splits, halves(study, knowing), strict=True):
        np.testing.assert_array_equal(np.sort(np.r_[certifying, reporting]), np.sort(split.test))
        assert not np.isin(group[certifying], group[reporting]).any()
        assert len(set(group[certifying])) - len(set(group[reporting])) in (0, 1)
        correct[reporting] = 1 - correct[reporting]
    other = relabelled(study, correct=correct)
    other.__dict__["best_single"] = study.best_single  # folds train on one another's queries
    before, after = (it.evaluate_guarantee(s, knowing, (0.05,)) for s in (study, other))
    assert select(before, split=it.CERTIFYING).equals(select(after, split=it.CERTIFYING))
    accuracies = [one(found, metric="accuracy", router=FIVE) for found in (before, after)]
    assert accuracies[0].estimate != accuracies[1].estimate


def test_where_nothing_is_certified_the_best_single_target_is_asked(study):
    found = it.evaluate_guarantee(study, [1 - study.labels.correct for _ in range(2)])
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
    certified = [certify(at, q, max_loss=0.2).tau for at, q in it.folds(study, knowing)]
    quartiles = np.quantile(certified, [0.25, 0.5, 0.75])
    assert [tau.lower, tau.estimate, tau.upper] == pytest.approx(quartiles.tolist())


@pytest.mark.parametrize("folds", [1, 3])
def test_without_prices_only_the_likeliest_target_can_be_certified(tmp_path, folds):
    """Of two targets, some unlabelled: the queries labelled for both certify and report."""
    table = tiny_studies.label_table(60, tiny_studies.TARGETS[:2]).drop(index=range(0, 60, 9))
    free = tiny_studies.study(tmp_path, table, prices="", outer_folds=folds)
    knows = [np.nan_to_num(free.labels.correct) * 0.9 + 0.05] * folds
    found = it.evaluate_guarantee(free, knows, (0.9,))
    taus = select(found, metric=it.TAU)
    assert taus["estimate"].tolist() == [0] * folds and taus["x"].tolist() == [*range(1, folds + 1)]
    n = taus["n"].sum() + one(found, metric="accuracy", router=it.allowed(0.9)).n
    assert n == free.labels.complete[free.test_rows].sum() < len(free.test_rows)
    assert select(found, metric=SAVING_AGAINST_BEST).empty
    needed = it.evaluate_labels_needed(free, knows, (0.9,), 2)
    assert needed["estimate"].iloc[-1] == 1 and set(needed["metric"]) == {it.CERTIFIED}
    assert not needed.duplicated(["metric", "router", "x"]).any()


def test_abstention_answers_what_is_likeliest_and_nothing_where_that_is_not_enough(study):
    by_fold = predictions(study, PRIMARY)
    correct, p = study.labels.correct[study.test_rows], held_out(study).join(by_fold)
    right = correct[np.arange(len(p)), p.argmax(axis=1)]
    found = it.evaluate_abstention(study, by_fold, (0.05, 0.6))
    assert one(found, metric=it.ANSWERED, x=0.05).estimate == 1
    assert one(found, metric=it.AMONG_ANSWERED, x=0.05).estimate == pytest.approx(right.mean())
    some = one(found, metric=it.ANSWERED, x=0.6).estimate
    assert 0 < some <= 1
    assert one(found, metric=it.AMONG_ANSWERED, x=0.6).n == round(some * len(p))
    alike = [np.full_like(values, 0.5) for values in by_fold]  # nothing tells queries apart
    found = it.evaluate_abstention(study, alike, (0.999,))
    assert one(found, metric=it.ANSWERED).estimate == 0
    assert np.isnan(one(found, metric=it.AMONG_ANSWERED).estimate)


def test_thresholds_are_fitted_without_test_labels(study):
    first, second = study.splits
    others = np.setdiff1d(first.test, second.validation)  # folds validate on each other's rows
    shares = [
        one(it.evaluate_abstention(s, predictions(study, PRIMARY), (0.6,)), metric=it.ANSWERED)
        for s in (study, flipped(study, others))
    ]
    assert shares[0].estimate == shares[1].estimate
