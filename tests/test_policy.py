import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router import policy
from prefill_router.errors import InputError

P = np.array([[0.9, 0.7, 0.2], [0.5, 0.5, 0.5], [0.1, 0.8, 0.75]])
C = np.array([3.0, 1.0, 2.0])


def brute_force(score_ok, p, c):
    """The cheapest allowed target, then the likelier, then the first; row by row."""
    choice = []
    for i in range(len(p)):
        allowed = [k for k in range(p.shape[1]) if score_ok(i, k)]
        choice.append(min(allowed, key=lambda k: (c[i, k], -p[i, k], k)))
    return choice


def test_argmax_takes_the_likeliest_and_breaks_ties_by_cost_then_by_place():
    assert policy.argmax(P, C).tolist() == [0, 1, 1]
    assert policy.argmax(P).tolist() == [0, 0, 1]


def test_a_gap_that_equals_tau_up_to_rounding_is_within_it():
    p = np.array([[0.9, 0.7]])  # 0.9 - 0.7 is a little more than 0.2 in floating point
    assert 0.9 - 0.7 > 0.2
    assert policy.tolerance(p, [2.0, 1.0], 0.2).tolist() == [1]


def test_oracle_takes_the_cheapest_right_target_else_the_cheapest():
    correct = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0]])
    assert policy.oracle(correct, C).tolist() == [2, 1, 0]
    assert policy.oracle(correct).tolist() == [0, 0, 0]


probability = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9])
probabilities = st.lists(st.tuples(*[probability] * 3), min_size=1, max_size=6)
costs = st.tuples(*[st.sampled_from([0.5, 1.0, 2.0])] * 3)


@settings(deadline=None)
@given(probabilities, costs, st.booleans(), st.sampled_from([0.0, 0.05, 0.2, 0.6]))
def test_policies_equal_brute_force(p, c, by_query, x):
    p, cost = np.array(p), np.tile(c, (len(p), 1))
    if by_query:  # each query's costs are those of the one before it, turned
        c = cost = np.array([np.roll(row, i) for i, row in enumerate(cost)])
    near = brute_force(lambda i, k: p[i, k] >= p[i].max() - x - 1e-12, p, cost)
    assert policy.tolerance(p, c, x).tolist() == near
    worth = p - x * cost
    best = brute_force(lambda i, k: worth[i, k] >= worth[i].max() - 1e-12, p, cost)
    assert policy.utility(p, c, x).tolist() == best


@settings(deadline=None)
@given(probabilities, costs)
def test_at_its_ends_the_tolerance_is_argmax_and_the_cheapest(p, c):
    p = np.array(p)
    assert np.array_equal(policy.tolerance(p, c, 0.0), policy.argmax(p, c))
    assert (np.array(c)[policy.tolerance(p, c, 1.0)] == min(c)).all()


@pytest.mark.parametrize(
    ("p", "c", "says"),
    [
        ([[0.5, np.nan]], [1, 2], "query 0, target 1"),
        ([[0.5, 0.5]], [1, np.nan], "target 1.*price"),
        ([[0.5, 0.5]], [1, 2, 3], r"\(3,\)"),
        ([0.5, 0.5], [1, 2], "queries, targets"),
    ],
)
def test_bad_input_is_named(p, c, says):
    with pytest.raises(InputError, match=says):
        policy.tolerance(p, c, 0.1)
    for use in (lambda: policy.tolerance(P, C, -0.1), lambda: policy.utility(P, C, np.nan)):
        with pytest.raises(InputError, match="must be at least 0"):
            use()


def test_abstain_asks_nobody_where_the_highest_probability_is_too_low():
    p = np.array([[0.2, 0.7], [0.4, 0.4], [0.1, 0.3]])
    assert policy.abstain(p, 0.4, np.array([2.0, 1.0])).tolist() == [1, 1, policy.NOBODY]
    assert policy.abstain(p, 0.0).tolist() == policy.argmax(p).tolist()
    with pytest.raises(InputError, match="not a number"):
        policy.abstain(p, np.nan)
