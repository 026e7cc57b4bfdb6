import copy
from dataclasses import replace

import numpy as np
import pytest

from prefill_router.evaluation.estimates import find, pick
from prefill_router.evaluation.metrics import expected_calibration_error, reliability_curve
from prefill_router.experiments import calibrated_predictions as cp
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.recipe.calibration import fit_calibration

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def both(study):
    return cp.calibrated_predictions(study)


def relabelled(study, rows):
    """The same study with other labels of some rows, and the networks as they were."""
    other, correct = copy.copy(study), study.labels.correct.copy()
    correct[rows] = 1 - correct[rows]
    other.labels = replace(study.labels, correct=correct)
    return other


def test_each_fold_is_calibrated_on_its_validation_rows(study, both):
    raw, p = both
    for fold, split in enumerate(study.splits):
        np.testing.assert_array_equal(
            raw[fold], predictions(study, PRIMARY, calibrated=False)[fold]
        )
        v = split.validation
        fitted = fit_calibration(raw[fold][v], study.labels.correct[v], study.labels.group[v])
        known = np.concatenate([v, split.test])
        np.testing.assert_allclose(p[fold][known], fitted.apply(raw[fold][known]))
        assert np.isnan(p[fold][split.train]).all()


def test_test_labels_calibrate_nothing(study, both, monkeypatch):
    raw, p = both
    monkeypatch.setattr(cp, "predictions", lambda *_, **__: raw)
    for fold, split in enumerate(study.splits):
        same = cp.calibrated_predictions(relabelled(study, split.test))[1][fold]
        np.testing.assert_array_equal(same, p[fold])
        other = cp.calibrated_predictions(relabelled(study, split.validation))[1][fold]
        assert not np.array_equal(other[split.test], p[fold][split.test])


def test_errors_and_bins_are_those_of_test_queries(study, both):
    found = cp.evaluate_calibration(study, *both)
    correct = study.labels.correct[study.test_rows]
    curves = cp.reliability_curves(found)
    errors = {}
    for name, by_fold in zip((cp.BEFORE, cp.AFTER), both, strict=True):
        joined = study.over_folds(by_fold)
        errors[name] = expected_calibration_error(joined, correct)
        for target, error in zip(study.labels.targets, errors[name], strict=True):
            assert pick(found, "ECE", name, target).estimate == pytest.approx(error)
        expected = reliability_curve(joined, correct)
        for part in ("predicted", "observed", "count"):
            np.testing.assert_allclose(getattr(curves[name], part), getattr(expected, part))
    difference = pick(found, "ECE difference", "calibrated - uncalibrated")
    assert difference.estimate == pytest.approx((errors[cp.AFTER] - errors[cp.BEFORE]).mean())
    assert not [row for row in found if row.metric == "AUC"]


def test_probabilities_that_are_too_sure_are_mended(study, monkeypatch):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=study.labels.correct.shape)
    truth = 1 / (1 + np.exp(-logits))
    other = copy.copy(study)
    correct = (rng.random(truth.shape) < truth).astype(float)
    other.labels = replace(study.labels, correct=correct)
    sure = [1 / (1 + np.exp(-6 * logits)) for _ in study.splits]
    monkeypatch.setattr(cp, "predictions", lambda *_, **__: sure)
    found = cp.evaluate_calibration(other, *cp.calibrated_predictions(other))
    assert pick(found, "ECE difference", "calibrated - uncalibrated").upper < 0


def test_abstention_answers_what_is_likeliest(study, both):
    found = cp.evaluate_abstention(study, both[1], (0.05, 0.6, 0.999))
    correct, p = study.labels.correct[study.test_rows], study.over_folds(both[1])
    right = correct[np.arange(len(p)), p.argmax(axis=1)]
    everything = pick(found, cp.ANSWERED, cp.wanted(0.05))
    assert everything.estimate == 1
    assert pick(found, cp.AMONG_ANSWERED, cp.wanted(0.05)).estimate == pytest.approx(right.mean())
    some = pick(found, cp.ANSWERED, cp.wanted(0.6))
    assert 0 < some.estimate <= 1
    assert pick(found, cp.AMONG_ANSWERED, cp.wanted(0.6)).n == round(some.estimate * len(p))


def test_an_accuracy_out_of_reach_is_met_with_silence(study, both):
    p = [np.full_like(values, 0.5) for values in both[1]]  # nothing tells queries apart
    found = cp.evaluate_abstention(study, p, (0.999,))
    assert find(found, cp.ANSWERED, cp.wanted(0.999)).estimate == 0
    assert np.isnan(find(found, cp.AMONG_ANSWERED, cp.wanted(0.999)).estimate)
