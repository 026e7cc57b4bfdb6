import numpy as np
import pytest
from tiny_studies import flipped, relabelled

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import calibration as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.metrics import expected_calibration_error, reliability_curve


@pytest.fixture(scope="module")
def both(study):
    return [predictions(study, PRIMARY, calibrated=known) for known in (False, True)]


def test_errors_and_bins_are_those_of_labelled_test_queries(study, both):
    correct, errors = study.labels.correct.copy(), {}
    correct[::3, 1] = np.nan
    found = it.evaluate_calibration(relabelled(study, correct=correct), *both)
    correct = correct[study.test_rows]
    for name, by_fold in zip((it.BEFORE, it.AFTER), both, strict=True):
        joined = held_out(study).join(by_fold)
        errors[name] = expected_calibration_error(joined, correct)
        rows = select(found, metric="ECE", router=name, target=list(study.labels.targets))
        np.testing.assert_allclose(rows["estimate"], errors[name])
        curve = reliability_curve(joined, correct)
        for metric, values in ((it.PREDICTED, curve.predicted), (it.OBSERVED, curve.observed)):
            bins = select(found, metric=metric, router=name)
            np.testing.assert_allclose(bins["estimate"], values)
            np.testing.assert_array_equal(bins["n"], curve.count)
            np.testing.assert_array_equal(bins["x"], np.arange(len(values)) + 1)
    difference = one(found, metric="ECE", router=it.AFTER, versus=it.BEFORE).estimate
    assert difference == pytest.approx((errors[it.AFTER] - errors[it.BEFORE]).mean())


def test_abstention_answers_what_is_likeliest_and_nothing_where_that_is_not_enough(study, both):
    correct, p = study.labels.correct[study.test_rows], held_out(study).join(both[1])
    right = correct[np.arange(len(p)), p.argmax(axis=1)]
    found = it.evaluate_abstention(study, both[1], (0.05, 0.6))
    assert one(found, metric=it.ANSWERED, x=0.05).estimate == 1
    assert one(found, metric=it.AMONG_ANSWERED, x=0.05).estimate == pytest.approx(right.mean())
    some = one(found, metric=it.ANSWERED, x=0.6).estimate
    assert 0 < some <= 1
    assert one(found, metric=it.AMONG_ANSWERED, x=0.6).n == round(some * len(p))
    alike = [np.full_like(values, 0.5) for values in both[1]]  # nothing tells queries apart
    found = it.evaluate_abstention(study, alike, (0.999,))
    assert one(found, metric=it.ANSWERED).estimate == 0
    assert np.isnan(one(found, metric=it.AMONG_ANSWERED).estimate)


def test_thresholds_are_fitted_without_test_labels(study, both):
    first, second = study.splits
    others = np.setdiff1d(first.test, second.validation)  # folds validate on each other's rows
    shares = [
        one(it.evaluate_abstention(s, both[1], (0.6,)), metric=it.ANSWERED).estimate
        for s in (study, flipped(study, others))
    ]
    assert shares[0] == shares[1]
