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


def test_routing_curve_golden():
    p = np.array([[0.9, 0.5], [0.2, 0.3]])
    correct = np.array([[1, 0], [0, 1]])
    curve = curves.routing_curve(p, correct, [3.0, 1.0])
    assert curve.tau.tolist() == pytest.approx([0, 0.1, 0.4])
    assert curve.cost.tolist() == pytest.approx([2, 2, 1])
    assert curve.accuracy.tolist() == pytest.approx([1, 1, 0.5])


def test_routing_curve_refuses_missing_labels_and_other_shapes():
    p, correct, flat, _ = simulate(0)
    with pytest.raises(InputError):
        curves.routing_curve(p, np.where(correct == 1, np.nan, correct), flat)
    with pytest.raises(InputError):
        curves.routing_curve(p, correct[:-1], flat)


points = st.lists(
    st.tuples(st.sampled_from(range(1, 9)), st.sampled_from(range(9))), min_size=1, max_size=12
)


@settings(deadline=None)
@given(points)
def test_pareto_frontier_is_what_nothing_dominates(pairs):
    cost, accuracy = np.array(pairs, dtype=float).T
    found = curves.pareto_frontier(cost, accuracy)
    undominated = {
        (c, a)
        for c, a in pairs
        if not any(x <= c and y >= a and (x, y) != (c, a) for x, y in pairs)
    }
    assert [(cost[i], accuracy[i]) for i in found] == sorted(undominated)


@settings(deadline=None)
@given(points)
def test_hull_is_the_lowest_concave_cover(pairs):
    cost, accuracy = np.array(pairs, dtype=float).T
    x, y = curves.hull(cost, accuracy)
    assert (np.interp(cost, x, y) >= accuracy - 1e-9).all()
    slope = np.diff(y) / np.diff(x)
    assert (slope > 0).all() and (np.diff(slope) < 1e-12).all()
    assert set(zip(x, y, strict=True)) <= set(zip(cost, accuracy, strict=True))
