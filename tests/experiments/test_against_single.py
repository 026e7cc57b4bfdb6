import numpy as np
import pytest

from prefill_router.evaluation.estimates import find, pick
from prefill_router.experiments.against_single import LEAD, SAVED, compare_with_single
from prefill_router.router.cost_comparison import ENCODER


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    correct = (rng.random((200, 3)) < [0.4, 0.6, 0.7]).astype(float)
    correct[::10, 1] = np.nan
    cost = rng.uniform(1, 3, (200, 3)) * [1, 2, 3]
    choices = {name: rng.integers(3, size=200) for name in ("a", "b")}
    return correct, cost, choices, rng.integers(1, 3, size=200), np.arange(200) // 2


def test_means_are_those_of_complete_rows(pool):
    correct, cost, choices, best, groups = pool
    read = np.linspace(0, 1, 200)
    found = compare_with_single(
        choices, correct, cost, best, groups,
        encoder_cost=read, pairs=[("a", "b")], n_resamples=50,
    )  # fmt: skip
    rows = np.flatnonzero(~np.isnan(correct).any(axis=1))
    right = {name: correct[rows, chosen[rows]].mean() for name, chosen in choices.items()}
    spent = {name: cost[rows, chosen[rows]].mean() for name, chosen in choices.items()}
    single, whole = correct[rows, best[rows]].mean(), cost[rows, best[rows]].mean()
    for name in choices:
        assert pick(found, "accuracy", name).estimate == pytest.approx(right[name])
        lead = pick(found, LEAD, f"{name} - best single target")
        assert lead.estimate == pytest.approx(right[name] - single)
        assert lead.lower < lead.estimate < lead.upper and lead.n == len(rows)
        assert pick(found, SAVED, name).estimate == pytest.approx(1 - spent[name] / whole)
        included = 1 - (spent[name] + read[rows].mean()) / whole
        assert pick(found, SAVED + ENCODER, name).estimate == pytest.approx(included)
    assert pick(found, LEAD, "a - b").estimate == pytest.approx(right["a"] - right["b"])
    saved = pick(found, SAVED + " difference", "a - b").estimate
    assert saved == pytest.approx((spent["b"] - spent["a"]) / whole)


def test_groups_count_once_where_that_is_asked(pool):
    correct, cost, choices, best, _ = pool
    groups = np.repeat([0, *range(1, 101)], [100, *[1] * 100])
    found = compare_with_single(
        choices, correct, cost, best, groups, each_group_once=True, n_resamples=50
    )
    rows = np.flatnonzero(~np.isnan(correct).any(axis=1))
    for name, chosen in choices.items():
        lead = correct[rows, chosen[rows]] - correct[rows, best[rows]]
        expected = np.mean([lead[groups[rows] == g].mean() for g in np.unique(groups[rows])])
        row = pick(found, LEAD, f"{name} - best single target")
        assert row.estimate == pytest.approx(expected)
        assert abs(expected - lead.mean()) > 1e-3
        assert row.n == len(rows)


def test_the_best_single_target_neither_leads_nor_saves(pool):
    correct, cost, _, best, groups = pool
    found = compare_with_single({"it": best}, correct, cost, best, groups, n_resamples=50)
    for row in (pick(found, LEAD, "it - best single target"), pick(found, SAVED, "it")):
        assert (row.estimate, row.lower, row.upper) == (0, 0, 0)


def test_unknown_costs_are_not_free(pool):
    correct, _, choices, best, groups = pool
    found = compare_with_single(choices, correct, None, best, groups, n_resamples=50)
    assert {row.metric for row in found} == {"accuracy", LEAD}
    assert find(found, SAVED, "a") is None
