import numpy as np
import pytest

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.router.contents import UNKNOWN, AddedRecord, RouterConfig
from prefill_router.router.guarantee import Guarantee
from prefill_router.router.routing import make_rule

TARGETS = ["a", "b", "c"]
P = np.array([[0.9, 0.8, 0.2], [0.3, 0.35, 0.1]])
COST = np.array([[5.0, 1.0, 0.1], [5.0, 1.0, 0.1]])


def described(tau=0.15, accuracy=(0.5, 0.6, 0.4), n_added=0):
    """Return what a router of three targets says of itself, the last ones added later."""
    added = [
        AddedRecord.model_construct(name=name, accuracy=a, certified=False)
        for name, a in list(zip(TARGETS, accuracy, strict=True))[3 - n_added :]
    ]
    return RouterConfig.model_construct(
        targets=TARGETS[: 3 - n_added], tau=0.1, lam=0.05, accuracy=accuracy[: 3 - n_added],
        guarantee=Guarantee(tau, 0.02, 0.95, "b", 200, 200, (0.0,), (0.01,)), added=added,
    )  # fmt: skip


def held(cost=True):
    """Return the tensors of 200 validation queries whose probabilities are true."""
    rng = np.random.default_rng(0)
    p = rng.random((200, 3))
    correct = (rng.random((200, 3)) < p).astype(float)
    found = {"validation.p": p, "validation.correct": correct.astype(np.int8)}
    return found | ({"validation.cost": np.tile([5.0, 1.0, 0.1], (200, 1))} if cost else {})


def settle(name, config=None, known=None, **settings):
    return make_rule(config or described(), known or held(), name, **settings)


def why(rule, row=0, cost=COST):
    return rule.routes(P, cost)[row].why


def names(rule, cost=COST):
    return [route.choice for route in rule.routes(P, cost)]


def test_every_policy_is_the_one_it_is_called():
    assert names(settle("argmax")) == ["a", "b"]
    assert names(settle("tolerance", tau=0.25)) == ["b", "c"]
    assert names(settle("tolerance")) == ["b", "b"]  # the certified 0.15
    assert names(settle("utility", lam=0.5)) == ["b", "c"]
    rule = settle("utility")
    assert rule.parameter == 0.05 and names(rule) == ["b", "b"]


def test_the_best_single_target_is_asked_where_nothing_is_certified():
    rule = settle("tolerance", described(None))
    assert names(rule) == ["b", "b"]
    bound = "no tolerance is certified to stay at most 2 points below the best single target."
    assert why(rule) == f"the best single target on training queries: {bound}"
    left = settle("tolerance", described(None), exclude=["b"])
    assert names(left) == ["a", "a"]
    assert why(left) == f"the most accurate of those left: {bound}"
    lucky = described(None, (0.5, 0.6, 0.9), n_added=1)  # by few labels
    assert names(settle("tolerance", lucky)) == ["b", "b"]
    unknown = described(None, (None, 0.6, None))
    assert names(settle("tolerance", unknown, exclude=["b"])) == ["a", "a"]


def test_targets_can_be_left_out():
    assert names(settle("argmax", exclude=["a"])) == ["b", "b"]
    with pytest.raises(InputError, match="exclude: target 'd' is unknown"):
        settle("argmax", exclude=["d"])
    with pytest.raises(InputError, match="All targets are excluded"):
        settle("argmax", exclude=TARGETS)


def test_the_note_says_of_whom_the_tolerance_is_certified():
    for n_added, exclude, said in (
        (0, "", "confidence 95 %"), (1, "c", "confidence 95 %"),
        (0, "c", "certified for a, b, c together, not for those asked here"),
        (1, "", "certified for a, b together, not for those asked here"),
        (1, "a", "certified for a, b together, not for those asked here"),
    ):  # fmt: skip
        assert said in why(settle("tolerance", described(n_added=n_added), exclude=[*exclude]))


def test_a_budget_is_kept_on_validation_queries():
    known = held()
    for budget in (0.1, 0.5, 2.0, 10.0):
        rule = settle("budget", budget=budget)
        chosen = rule.choose(known["validation.p"], known["validation.cost"])
        assert known["validation.cost"][np.arange(200), chosen].mean() <= budget + 1e-12
    assert why(rule).endswith("which is expected to spend at most 10 USD a query on average.")
    assert rule.parameter == 0  # ten dollars buy the likeliest target every time
    with pytest.raises(InputError, match="cheapest target"):
        settle("budget", budget=0.01)


def test_abstention_reaches_its_accuracy_on_validation_queries():
    known = held()
    rule = settle("abstain", accuracy=0.9)
    chosen = rule.choose(known["validation.p"], known["validation.cost"])
    asked = np.flatnonzero(chosen != policy.NOBODY)
    assert 0 < len(asked) < 200
    assert known["validation.correct"][asked, chosen[asked]].mean() >= 0.9
    assert names(rule)[1] is None
    reason = why(rule, 1)
    assert "is below" in reason
    assert reason.endswith("from which on 90 % of the answers to validation queries are right.")
    before = settle("abstain", accuracy=0.9, exclude=["c"])
    known["validation.correct"][:, 2] = UNKNOWN  # as of a target added since
    with pytest.raises(InputError, match=r"which c never answered; leave out: exclude=\['c'\]"):
        settle("abstain", known=known, accuracy=0.9)
    rule = settle("abstain", known=known, accuracy=0.9, exclude=["c"])
    assert rule.parameter == before.parameter


def test_reasons_name_what_decided():
    rule = settle("tolerance", tau=0.15)
    assert why(rule) == "the cheapest of 2 within 0.15 of the highest P(correct), 0.90 of a."
    free = "the highest P(correct), 0.90 of a; without prices none is cheaper."
    assert why(rule, cost=None) == free
    assert "0.700 at lambda 0.1" in why(settle("utility", lam=0.1))


def test_settings_that_cannot_be_meant_are_refused():
    for name, settings, match in (
        ("cheapest", {}, "policy 'cheapest' is unknown"),
        ("argmax", {"tau": 0.1}, "no setting 'tau'; there are tau of tolerance, lam of"),
        ("tolerance", {"tua": 0.1}, "'tolerance' has no setting 'tua'"),
        ("tolerance", {"tau": 2.0}, "tau is 2.0; it must be from 0 to 1"),
        ("budget", {}, "needs budget"),
        ("abstain", {}, "needs accuracy"),
        ("abstain", {"accuracy": 1.5}, "between 0 and 1"),
    ):
        with pytest.raises(InputError, match=match):
            settle(name, **settings)


def test_policies_that_weigh_costs_need_prices():
    for name, settings in (("utility", {}), ("budget", {"budget": 1.0})):
        with pytest.raises(InputError, match="fitted without prices"):
            settle(name, known=held(cost=False), **settings)
    assert names(settle("tolerance", known=held(cost=False), tau=0.2), None) == ["a", "b"]
