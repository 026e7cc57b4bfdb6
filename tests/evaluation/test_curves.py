import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation import curves


def simulate(seed, n=40, k=4, rounded=None):
    rng = np.random.default_rng(seed)
    p = rng.random((n, k)) if rounded is None else rng.random((n, k)).round(rounded)
    correct = (rng.random((n, k)) < p).astype(float)
    return p, correct, rng.random(k) + 0.1, rng.random((n, k)) + 0.1


@pytest.mark.parametrize("rounded", [None, 1, 2])
@pytest.mark.parametrize("kind", ["per target", "per query", "expected and paid", "tied"])
def test_routing_curve_equals_the_policy_at_every_tau(kind, rounded):
    p, correct, flat, each = simulate(3, rounded=rounded)
    cost, expected = {
        "per target": (flat, None),
        "per query": (each, None),
        "expected and paid": (each, flat),
        "tied": (np.array([1.0, 1.0, 2.0, 2.0]), None),
    }[kind]
    curve = curves.routing_curve(p, correct, cost, expected)
    assert np.array_equal(curve.tau, np.unique(p.max(axis=1, keepdims=True) - p))
    paid, rows = np.broadcast_to(cost, p.shape), np.arange(len(p))
    for tau, mean_cost, accuracy in zip(curve.tau, *curve.points, strict=True):
        choice = policy.tolerance(p, cost if expected is None else expected, tau)
        assert accuracy == pytest.approx(correct[rows, choice].mean(), abs=1e-12)
        assert mean_cost == pytest.approx(paid[rows, choice].mean(), rel=1e-12)


def test_routing_curve_refuses_missing_labels_and_other_shapes():
    p, correct, flat, _ = simulate(0)
    for labels in (np.where(correct == 1, np.nan, correct), correct[:-1]):
        with pytest.raises(InputError):
            curves.routing_curve(p, labels, flat)


points = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=12)


@settings(deadline=None)
@given(points)
def test_pareto_frontier_is_what_nothing_dominates(pairs):
    cost, accuracy = np.array(pairs, dtype=float).T
    found = curves.pareto_frontier(cost, accuracy)
    dominated = {
        (c, a) for c, a in pairs for x, y in pairs if x <= c and y >= a and (x, y) != (c, a)
    }
    assert [(cost[i], accuracy[i]) for i in found] == sorted({*pairs} - dominated)


@settings(deadline=None)
@given(points)
def test_hull_is_the_lowest_concave_cover(pairs):
    cost, accuracy = np.array(pairs, dtype=float).T
    x, y = curves.hull(cost, accuracy)
    assert (np.interp(cost, x, y) >= accuracy - 1e-9).all()
    slope = np.diff(y) / np.diff(x)
    assert (slope > 0).all() and (np.diff(slope) < 1e-12).all()
    assert set(zip(x, y, strict=True)) <= set(zip(cost, accuracy, strict=True))


TARGETS = (np.array([1.0, 2.0, 5.0]), np.array([0.4, 0.6, 0.8]))


def areas(curve, targets=TARGETS):
    """P-, MDP- and PDP-AUCCC."""
    found = curves.summarise(curve, targets, (0, 1))
    return [found[metric] for metric in ("P-AUCCC", "MDP-AUCCC", "PDP-AUCCC")]


def test_auccc_golden():
    curve = (np.array([1.0, 3.0]), np.array([0.4, 0.8]))
    # above the floor .4: a triangle 0 to .4 over [1, 3], then flat at .4 over [3, 5]; range 4
    # frontier of the targets: 0 to .2 over [1, 2], .2 to .4 over [2, 5]
    # frontier of both: (1, .4) (2, .6) (3, .8); (5, .8) is dominated
    assert areas(curve) == pytest.approx([0.3, 0.3 - (0.1 + 0.9) / 4, 0])
    # padded by the floor on the left and the last value on the right
    # together with the targets: 0 .2 .4 at 1 2 3, then flat: (.1 + .3 + .8) / 4 = .3
    good = (np.array([3.0]), np.array([0.8]))
    assert areas(good) == pytest.approx([(0.5 * 2 * 0.4 + 2 * 0.4) / 4, 0.05, 0])
    poor = (np.array([3.0]), np.array([0.5]))
    assert areas(poor) == pytest.approx([(0.1 + 0.2) / 4, 0.075 - 0.25, 0.25 - 0.075])


def test_auccc_does_not_depend_on_order_scale_of_cost_or_points_outside_the_range():
    p, correct, flat, _ = simulate(5)
    curve = curves.routing_curve(p, correct, flat)
    targets = (flat, correct.mean(axis=0))
    value = areas(curve.points, targets)
    backwards = (curve.cost[::-1], curve.accuracy[::-1])
    assert areas(backwards, targets) == pytest.approx(value)
    scaled = areas((1e-6 * curve.cost, curve.accuracy), (1e-6 * flat, targets[1]))
    assert scaled == pytest.approx(value)
    x = np.linspace(flat.min(), flat.max(), 200_001)
    height = np.interp(x, *backwards) - targets[1][flat.argmin()]
    assert value[0] == pytest.approx(height.mean(), abs=1e-4)
    outside = (np.array([0.0, 6.0]), np.array([0.4, 1.0]))
    assert areas(outside)[0] == pytest.approx(0.3)  # .5 to .9, less .4
    same = (np.array([1.0, 1.0]), np.array([0.4, 0.6]))
    assert np.isnan(areas(same, same)).all()


def test_aiq_golden():
    points = (np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.2, 0.3, 0.6, 0.5]))
    assert [v.tolist() for v in curves.hull(*points)] == [[1, 3], [0.2, 0.6]]
    shared = curves.shared_cost_range(points, (np.array([2.0, 5.0]), np.array([0, 1])))
    assert shared == (2, 5)
    # .4 to .6 over [2, 3], flat at .6 over [3, 5]
    assert curves.aiq(*points, shared) == pytest.approx(1.7 / 3)
    assert np.isnan(curves.aiq(*points, (2.0, 2.0)))


@pytest.mark.parametrize(("less", "savings"), [(0, (-0.25, 0.5)), (0.5, (np.nan, np.nan))])
def test_saving_at_equal_accuracy_golden(less, savings):
    points = np.array([4.0, 3.0, 2.5, 1.0]), np.array([0.8, 0.7, 0.6, 0.4]) - less
    found = curves.summarise(points, TARGETS, (0, 1), best=(2.0, 0.6))
    got = [found[f"saving at equal accuracy ({of})"] for of in ("best", "dearest")]
    assert got == pytest.approx(savings, nan_ok=True)  # the point at a cost of 2.5


def pair_summaries(recovered):
    found = curves.summarise(TARGETS, TARGETS, (0, 1), recovered)
    return [found[metric] for metric in ("APGR", "CPT(50 %)", "CPT(80 %)")]


def test_pgr_golden():
    # strong is right where weak is wrong on the first two of four, and they lead in p
    p = np.array([[0.1, 0.9], [0.2, 0.8], [0.5, 0.5], [0.6, 0.4]])
    correct = np.array([[0, 1], [0, 1], [1, 1], [0, 0]])
    share, pgr = curves.pgr_curve(p, correct, weak=0, strong=1)
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert pgr.tolist() == [0, 0.5, 1, 1, 1]
    assert pair_summaries((share, pgr)) == pytest.approx([0.75, 0.25, 0.5])
    # a router that knows nothing is chance; without a gap it is undefined
    p, correct = np.full((10, 2), 0.5), np.column_stack([np.zeros(10), np.ones(10)])
    assert pair_summaries(curves.pgr_curve(p, correct, 0, 1)) == [0.5, 1, 1]
    assert np.isnan(pair_summaries(curves.pgr_curve(p, correct, 0, 0))).all()


def test_pgr_equals_brute_force_over_thresholds():
    p, correct, *_ = simulate(8, rounded=1)
    weak, strong = np.argsort(correct[:, :2].mean(axis=0))
    share, pgr = curves.pgr_curve(p, correct, weak, strong)
    lead = p[:, strong] - p[:, weak]
    low, high = correct[:, weak].mean(), correct[:, strong].mean()
    for s, value in zip(share[1:], pgr[1:], strict=True):
        threshold = np.sort(lead)[::-1][round(s * len(lead)) - 1]
        routed = np.where(lead >= threshold, correct[:, strong], correct[:, weak]).mean()
        assert value == pytest.approx((routed - low) / (high - low))
        assert s == pytest.approx((lead >= threshold).mean())
