import numpy as np
import pytest

from prefill_router.curve_evaluation import curve_band, evaluate_curves
from prefill_router.curves import routing_curve

COST = np.array([1.0, 2.0, 6.0])


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    true = rng.beta(1.2, 0.9, size=(600, 3))
    correct = (rng.random((600, 3)) < true).astype(float)
    correct[::50, 1] = np.nan
    return true, np.clip(true + rng.normal(0, 0.5, true.shape), 0, 1), correct


def test_curves_summaries_have_intervals_and_rank_the_true_p_first(world):
    true, noisy, correct = world
    rows = evaluate_curves(
        {"true": true, "noisy": noisy}, correct, COST, pair=(0, 2), n_resamples=30
    )
    rows = {(e.metric, e.router, e.target): e for e in rows}
    for metric in ("P-AUCCC", "MDP-AUCCC", "AIQ", "APGR"):
        a, b = rows[metric, "true", ""], rows[metric, "noisy", ""]
        assert a.estimate > b.estimate
        assert a.lower < a.estimate < a.upper
    assert rows["CPT(80 %)", "true", ""].estimate <= 1
    assert len(rows) == 16


def test_a_band_lies_on_the_curve(world):
    true, _, correct = world
    band = curve_band(true, correct, COST, n_points=12, n_resamples=100)
    complete = ~np.isnan(correct).any(axis=1)
    curve = routing_curve(true[complete], correct[complete], COST)
    at = np.searchsorted(curve.tau, band["tau"])
    assert band["accuracy"].to_numpy() == pytest.approx(curve.accuracy[at])
    assert band["cost"].to_numpy() == pytest.approx(curve.cost[at])
    assert len(band) == 12 and (band["lower"] < band["accuracy"]).all()
    assert (band["accuracy"] < band["upper"]).all()
