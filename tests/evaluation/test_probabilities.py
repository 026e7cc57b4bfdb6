import numpy as np
import pytest

from prefill_router.evaluation import metrics
from prefill_router.evaluation.probabilities import evaluate_probabilities

TARGETS = ("small", "middle", "large")


def rows_by_key(estimates):
    return {(e.metric, e.router, e.target): e for e in estimates}


def test_probabilities_equal_the_metrics(world):
    true, noisy, correct = world
    rows = rows_by_key(
        evaluate_probabilities(
            {"true": true, "noisy": noisy},
            correct,
            targets=TARGETS,
            primary="true",
            n_resamples=200,
        )
    )
    for metric, function in (
        ("AUC", metrics.auc),
        ("Brier", metrics.brier),
        ("ECE", metrics.expected_calibration_error),
    ):
        for name, p in (("true", true), ("noisy", noisy)):
            expected = function(p, correct)
            for k, target in enumerate(TARGETS):
                row = rows[metric, name, target]
                assert row.estimate == pytest.approx(expected[k])
                assert row.n == (~np.isnan(correct[:, k])).sum()
            assert rows[metric, name, ""].estimate == pytest.approx(expected.mean())
            assert rows[metric, name, ""].lower < rows[metric, name, ""].upper
    row = rows["AUC difference", "true - noisy", ""]
    a, b = rows["AUC", "true", ""], rows["AUC", "noisy", ""]
    assert row.estimate == pytest.approx(a.estimate - b.estimate)
    assert row.lower > 0


def test_a_constant_target_is_reported_without_auc_and_left_out_of_the_average(world):
    true, _, correct = world
    constant = correct.copy()
    constant[:, 2] = 1
    rows = rows_by_key(
        evaluate_probabilities({"r": true}, constant, targets=TARGETS, n_resamples=20)
    )
    assert np.isnan(rows["AUC", "r", "large"].estimate)
    two = [rows["AUC", "r", name].estimate for name in TARGETS[:2]]
    assert rows["AUC", "r", ""].estimate == pytest.approx(np.mean(two))


@pytest.mark.parametrize("n_targets", [2, 50])
def test_fifty_queries_of_two_and_of_fifty_targets_are_evaluated(n_targets):
    rng = np.random.default_rng(5)
    p = rng.random((50, n_targets))
    correct = (rng.random(p.shape) < p).astype(float)
    names = [f"t{k}" for k in range(n_targets)]
    aucs = evaluate_probabilities({"r": p}, correct, targets=names, n_resamples=20)
    assert np.isfinite([row.estimate for row in aucs]).all()
