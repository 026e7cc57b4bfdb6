import numpy as np
import pytest
from tiny_studies import relabelled

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import calibration as it
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.metrics import expected_calibration_error, reliability_curve

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def both(study):
    return [predictions(study, PRIMARY, calibrated=known) for known in (False, True)]


def test_errors_and_bins_are_those_of_test_queries(study, both):
    found = it.evaluate_calibration(study, *both)
    correct, errors = study.labels.correct[study.test_rows], {}
    for name, by_fold in zip((it.BEFORE, it.AFTER), both, strict=True):
        joined = study.over_folds(by_fold)
        errors[name] = expected_calibration_error(joined, correct)
        rows = select(found, metric="ECE", router=name, target=list(study.labels.targets))
        np.testing.assert_allclose(rows["estimate"], errors[name])
        expected = reliability_curve(joined, correct)
        predicted, observed = (
            select(found, metric=metric, router=name) for metric in (it.PREDICTED, it.OBSERVED)
        )
        np.testing.assert_allclose(predicted["estimate"], expected.predicted)
        np.testing.assert_allclose(observed["estimate"], expected.observed)
        assert observed["n"].tolist() == expected.count.tolist()
        assert observed["x"].tolist() == list(range(1, len(expected.count) + 1))
    difference = one(found, metric="ECE", router=it.AFTER, versus=it.BEFORE).estimate
    assert difference == pytest.approx((errors[it.AFTER] - errors[it.BEFORE]).mean())


def test_probabilities_that_are_too_sure_are_told_from_true_ones(study):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=study.labels.correct.shape)
    truth = 1 / (1 + np.exp(-logits))
    other = relabelled(study, correct=(rng.random(truth.shape) < truth).astype(float))
    sure = 1 / (1 + np.exp(-6 * logits))
    found = it.evaluate_calibration(other, [sure] * 2, [truth] * 2)
    assert one(found, metric="ECE", router=it.AFTER, versus=it.BEFORE).upper < 0


def test_missing_labels_are_in_no_bin(study, both):
    correct = study.labels.correct.copy()
    correct[::3, 1] = np.nan
    other = relabelled(study, correct=correct)
    found = select(it.evaluate_calibration(other, *both), metric=it.OBSERVED, router=it.AFTER)
    kept = correct[study.test_rows]
    assert found["n"].sum() == (~np.isnan(kept)).sum()
    assert (found["estimate"] * found["n"]).sum() == pytest.approx(np.nansum(kept))


def test_abstention_answers_what_is_likeliest(study, both):
    found = it.evaluate_abstention(study, both[1], (0.05, 0.6, 0.999))
    correct, p = study.labels.correct[study.test_rows], study.over_folds(both[1])
    right = correct[np.arange(len(p)), p.argmax(axis=1)]
    assert one(found, metric=it.ANSWERED, x=0.05).estimate == 1
    everything = one(found, metric=it.AMONG_ANSWERED, x=0.05)
    assert everything.estimate == pytest.approx(right.mean())
    some = one(found, metric=it.ANSWERED, x=0.6).estimate
    assert 0 < some <= 1
    assert one(found, metric=it.AMONG_ANSWERED, x=0.6).n == round(some * len(p))


def test_an_accuracy_out_of_reach_is_met_with_silence(study, both):
    p = [np.full_like(values, 0.5) for values in both[1]]  # nothing tells queries apart
    found = it.evaluate_abstention(study, p, (0.999,))
    assert one(found, metric=it.ANSWERED).estimate == 0
    assert np.isnan(one(found, metric=it.AMONG_ANSWERED).estimate)


def test_thresholds_are_fitted_without_test_labels(study, both):
    correct, test = study.labels.correct.copy(), study.splits[0].test
    others = np.setdiff1d(test, study.splits[1].validation)  # folds validate on each other's rows
    correct[others] = 1 - correct[others]
    shares = [
        one(it.evaluate_abstention(s, both[1], (0.6,)), metric=it.ANSWERED).estimate
        for s in (study, relabelled(study, correct=correct))
    ]
    assert shares[0] == shares[1]
