import numpy as np
import pytest

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation import tuning
from prefill_router.evaluation.tuning import choose_parameter, fit_abstention, fit_budget

COST = np.array([1.0, 2.0, 6.0])


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    true = rng.beta(1.2, 0.9, size=(200, 3))
    correct = (rng.random((200, 3)) < true).astype(float)
    correct[::20, 1] = np.nan
    return np.clip(true + rng.normal(0, 0.3, true.shape), 0, 1), correct


def every(p, correct, function, parameters):
    complete = ~np.isnan(correct).any(axis=1)
    p, y = p[complete], correct[complete]
    choices = [function(p, COST, parameter) for parameter in parameters]
    accuracy = np.array([y[np.arange(len(y)), choice].mean() for choice in choices])
    return accuracy, np.array([COST[choice].mean() for choice in choices])


@pytest.mark.parametrize("as_accurate_as", [None, 0])
def test_the_cheapest_is_chosen_of_the_taus_that_are_accurate_enough(world, as_accurate_as):
    p, correct = world
    accuracy, cost = every(p, correct, policy.tolerance, np.unique(policy.gaps(p)))
    wanted = accuracy.max()
    if as_accurate_as is not None:
        wanted = correct[~np.isnan(correct).any(axis=1), as_accurate_as].mean()
    tau = choose_parameter(p, correct, COST, as_accurate_as=as_accurate_as)
    got, paid = every(p, correct, policy.tolerance, [tau])
    assert got[0] >= wanted - 1e-12
    assert paid[0] == pytest.approx(cost[accuracy >= wanted - 1e-12].min())


def test_choices_by_utility_change_only_where_two_targets_tie(world):
    p = world[0][:20]
    lams = np.sort(tuning.tied_lambdas(p, np.broadcast_to(COST, p.shape)))
    between = np.concatenate([[lams[0] / 2], (lams[:-1] + lams[1:]) / 2, [2 * lams[-1]]])
    for low, high, middle in zip([0, *lams[:-1]], lams, between[:-1], strict=True):
        inside = [policy.utility(p, COST, lam) for lam in (0.9 * low + 0.1 * high, middle)]
        np.testing.assert_array_equal(*inside)
    assert (policy.utility(p, COST, between[-1]) == 0).all()
    assert len(tuning.tied_lambdas(p, np.ones(p.shape))) == 0


def test_if_none_is_as_accurate_the_most_accurate_is_chosen():
    p, correct, cost = np.array([[0.9, 0.1]]), np.array([[0.0, 1.0]]), np.array([1.0, 2.0])
    most, wanted = (choose_parameter(p, correct, cost, as_accurate_as=k) for k in (None, 1))
    assert most == wanted


def test_utility_does_at_least_as_well_as_argmax(world):
    p, correct = world
    lam = choose_parameter(p, correct, COST, "utility")
    accuracy, _ = every(p, correct, policy.utility, [0.0, lam])
    assert accuracy[1] >= accuracy[0]


def test_a_budget_is_spent_by_the_least_lambda_that_keeps_it():
    rng = np.random.default_rng(0)
    p, c = rng.random((80, 3)), rng.uniform(0.1, 5, size=(80, 3))
    rows = np.arange(80)
    for budget in np.linspace(c.min(axis=1).mean(), 3, 7):
        lam = fit_budget(p, c, budget)
        assert c[rows, policy.utility(p, c, lam)].mean() <= budget + 1e-9
        if lam > 0:  # a little less, and it is broken
            assert c[rows, policy.utility(p, c, lam * (1 - 1e-6))].mean() > budget
    with pytest.raises(InputError, match="cheapest target"):
        fit_budget(p, c, c.min(axis=1).mean() * 0.99)
    assert fit_budget(p, np.zeros(3), 0.0) == 0


def test_abstention_has_the_least_threshold_by_brute_force():
    rng = np.random.default_rng(1)
    p = np.round(rng.random((120, 3)), 2)  # with ties
    correct = (rng.random((120, 3)) < p).astype(float)
    correct[::7, 1] = np.nan
    complete = ~np.isnan(correct).any(axis=1)
    highest, right = p[complete].max(axis=1), correct[complete]
    right = right[np.arange(len(right)), policy.argmax(p[complete])]
    for accuracy in (0.5, 0.8, 0.9):
        reached = [t for t in np.unique(highest) if right[highest >= t].mean() >= accuracy]
        threshold = fit_abstention(p, correct, accuracy)
        assert (highest >= threshold).sum() == (highest >= min(reached)).sum()
    with pytest.raises(InputError, match="No threshold makes"):
        fit_abstention(p, np.zeros_like(p), 0.999)
