import numpy as np
import pytest

from prefill_router.evaluation.curve_summaries import (
    aiq,
    apgr,
    cpt,
    mdp_auccc,
    p_auccc,
    pdp_auccc,
    pgr_curve,
    saving_at_equal_accuracy,
    shared_cost_range,
)
from prefill_router.evaluation.curves import hull, routing_curve

TARGETS = (np.array([1.0, 2.0, 5.0]), np.array([0.4, 0.6, 0.8]))


def simulate(seed, rounded=None):
    rng = np.random.default_rng(seed)
    p = rng.random((40, 4)) if rounded is None else rng.random((40, 4)).round(rounded)
    correct = (rng.random((40, 4)) < p).astype(float)
    return p, correct, rng.random(4) + 0.1


def test_auccc_golden():
    curve = (np.array([1.0, 3.0]), np.array([0.4, 0.8]))
    # above the floor .4: a triangle 0 to .4 over [1, 3], then flat at .4 over [3, 5]; range 4
    assert p_auccc(curve, TARGETS) == pytest.approx((0.4 + 0.8) / 4)
    # frontier of the targets: 0 to .2 over [1, 2], .2 to .4 over [2, 5]
    frontier = (0.1 + 0.9) / 4
    assert mdp_auccc(curve, TARGETS) == pytest.approx(0.3 - frontier)
    # frontier of both: (1, .4) (2, .6) (3, .8); (5, .8) is dominated
    assert pdp_auccc(curve, TARGETS) == pytest.approx(0)


def test_auccc_is_padded_by_the_floor_on_the_left_and_the_last_value_on_the_right():
    curve = (np.array([3.0]), np.array([0.8]))
    assert p_auccc(curve, TARGETS) == pytest.approx((0.5 * 2 * 0.4 + 2 * 0.4) / 4)
    # together with the targets: 0 .2 .4 at 1 2 3, then flat: (.1 + .3 + .8) / 4 = .3
    assert pdp_auccc(curve, TARGETS) == pytest.approx(0)
    poor = (np.array([3.0]), np.array([0.5]))
    assert p_auccc(poor, TARGETS) == pytest.approx((0.1 + 0.2) / 4)
    assert mdp_auccc(poor, TARGETS) == pytest.approx(0.075 - 0.25)
    assert pdp_auccc(poor, TARGETS) == pytest.approx(0.25 - 0.075)


def test_auccc_does_not_depend_on_order_scale_of_cost_or_points_outside_the_range():
    p, correct, flat = simulate(5)
    curve = routing_curve(p, correct, flat)
    targets = (flat, correct.mean(axis=0))
    value = p_auccc(curve.points, targets)
    backwards = (curve.cost[::-1], curve.accuracy[::-1])
    assert p_auccc(backwards, targets) == pytest.approx(value)
    scaled = p_auccc((1e-6 * curve.cost, curve.accuracy), (1e-6 * flat, targets[1]))
    assert scaled == pytest.approx(value)
    x = np.linspace(flat.min(), flat.max(), 200_001)
    height = np.interp(x, *backwards) - targets[1][flat.argmin()]
    assert value == pytest.approx(height.mean(), abs=1e-4)
    outside = (np.array([0.0, 6.0]), np.array([0.4, 1.0]))
    assert p_auccc(outside, TARGETS) == pytest.approx(0.3 - 0.0)  # .5 to .9, less .4


def test_auccc_is_undefined_where_all_targets_cost_the_same():
    same = (np.array([1.0, 1.0]), np.array([0.4, 0.6]))
    assert np.isnan(p_auccc(same, same))


def test_aiq_golden():
    cost, accuracy = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.2, 0.3, 0.6, 0.5])
    hull_cost, hull_accuracy = hull(cost, accuracy)
    assert hull_cost.tolist() == [1, 3] and hull_accuracy.tolist() == [0.2, 0.6]
    shared = shared_cost_range((cost, accuracy), (np.array([2.0, 5.0]), np.array([0, 1])))
    assert shared == (2, 5)
    # .4 to .6 over [2, 3], flat at .6 over [3, 5]
    assert aiq(cost, accuracy, shared) == pytest.approx(1.7 / 3)
    assert np.isnan(aiq(cost, accuracy, (2.0, 2.0)))


def test_saving_at_equal_accuracy_golden():
    cost, accuracy = np.array([4.0, 3.0, 2.5, 1.0]), np.array([0.8, 0.7, 0.6, 0.4])
    found = saving_at_equal_accuracy((cost, accuracy), (2.0, 0.6), dearest=5.0)
    assert found == pytest.approx((-0.25, 0.5))  # the point at a cost of 2.5
    assert np.isnan(saving_at_equal_accuracy((cost, accuracy - 0.5), (2.0, 0.6), 5.0)).all()


def test_pgr_golden():
    # strong is right where weak is wrong on the first two of four, and they lead in p
    p = np.array([[0.1, 0.9], [0.2, 0.8], [0.5, 0.5], [0.6, 0.4]])
    correct = np.array([[0, 1], [0, 1], [1, 1], [0, 0]])
    share, pgr = pgr_curve(p, correct, weak=0, strong=1)
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert pgr.tolist() == [0, 0.5, 1, 1, 1]
    assert apgr(share, pgr) == pytest.approx(0.75)
    assert cpt(share, pgr, 0.5) == 0.25
    assert cpt(share, pgr, 0.8) == 0.5


def test_pgr_of_a_router_that_knows_nothing_is_chance():
    p = np.full((10, 2), 0.5)
    correct = np.column_stack([np.zeros(10), np.ones(10)])
    share, pgr = pgr_curve(p, correct, 0, 1)
    assert share.tolist() == [0, 1] and apgr(share, pgr) == 0.5


def test_pgr_is_undefined_where_strong_is_no_better():
    p, correct, _ = simulate(1)
    share, pgr = pgr_curve(p, correct, 0, 0)
    assert np.isnan(apgr(share, pgr)) and np.isnan(cpt(share, pgr, 0.5))


def test_pgr_equals_brute_force_over_thresholds():
    p, correct, _ = simulate(8, rounded=1)
    weak, strong = 0, 1
    if correct[:, 0].mean() > correct[:, 1].mean():
        weak, strong = 1, 0
    share, pgr = pgr_curve(p, correct, weak, strong)
    lead = p[:, strong] - p[:, weak]
    low, high = correct[:, weak].mean(), correct[:, strong].mean()
    for s, value in zip(share[1:], pgr[1:], strict=True):
        threshold = np.sort(lead)[::-1][round(s * len(lead)) - 1]
        routed = np.where(lead >= threshold, correct[:, strong], correct[:, weak]).mean()
        assert value == pytest.approx((routed - low) / (high - low))
        assert s == pytest.approx((lead >= threshold).mean())
