import numpy as np
import pytest

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.choices import evaluate_best_single, evaluate_choices

TARGETS = ("small", "middle", "large")
COST = np.array([1.0, 2.0, 6.0])


def rows_by_key(estimates):
    return {(e.metric, e.router, e.target): e for e in estimates}


def evaluated(world, **changes):
    true, noisy, correct = world
    settings = {"targets": TARGETS, "primary": "true", "n_resamples": 400} | changes
    choices = {"true": policy.argmax(true, COST), "noisy": policy.argmax(noisy, COST)}
    return rows_by_key(evaluate_choices(choices, correct, COST, 0, **settings))


def test_estimates_of_choices_equal_the_plain_formulas(world):
    true, _, correct = world
    rows = evaluated(world)
    complete = ~np.isnan(correct).any(axis=1)
    y, choice = correct[complete], policy.argmax(true, COST)[complete]
    accuracy = y[np.arange(len(y)), choice].mean()
    closed = (accuracy - y[:, 0].mean()) / (y.max(axis=1).mean() - y[:, 0].mean())
    assert rows["accuracy", "true", ""].estimate == pytest.approx(accuracy)
    assert rows["gap closed", "true", ""].estimate == pytest.approx(closed)
    assert rows["mean cost", "true", ""].estimate == pytest.approx(COST[choice].mean())
    assert rows["cost saving", "true", ""].estimate == pytest.approx(1 - COST[choice].mean() / 6)
    headroom = y.max(axis=1).mean() - y[:, 0].mean()
    assert rows["headroom", "oracle", ""].estimate == pytest.approx(headroom)
    for k, target in enumerate(TARGETS):
        assert rows["accuracy", "single target", target].estimate == pytest.approx(y[:, k].mean())
    assert {row.n for row in rows.values()} == {complete.sum()}


def test_references_are_what_they_are_by_definition(world):
    rows = evaluated(world)
    for metric, router, value in (
        ("gap closed", "oracle", 1),
        ("gap closed", "best single target", 0),
    ):
        row = rows[metric, router, ""]
        assert (row.estimate, row.lower, row.upper) == pytest.approx((value, value, value))
    assert rows["cost saving", "single target", "large"].upper == pytest.approx(0)
    assert rows["cost saving", "single target", "small"].lower == pytest.approx(5 / 6)


def test_the_oracle_asks_the_cheapest_target_that_is_right(world):
    correct, cost = world[2], COST[::-1]  # the cheapest last, where a tie would not find it
    choices = {"first": np.zeros(len(correct), dtype=int)}
    rows = evaluate_choices(choices, correct, cost, 0, targets=TARGETS, n_resamples=2)
    y = correct[~np.isnan(correct).any(axis=1)]
    right = np.where(y == 1, cost, np.inf).min(axis=1)
    paid = np.where(np.isinf(right), cost.min(), right)
    assert rows_by_key(rows)["mean cost", "oracle", ""].estimate == pytest.approx(paid.mean())


def test_differences_are_paired_and_between_the_primary_and_each_other(world):
    rows = evaluated(world)
    row = rows["gap closed difference", "true - noisy", ""]
    a, b = rows["gap closed", "true", ""], rows["gap closed", "noisy", ""]
    assert row.estimate == pytest.approx(a.estimate - b.estimate)
    assert row.lower > 0  # knowing the true chances is better, and it shows
    unpaired = np.hypot(a.upper - a.lower, b.upper - b.lower)
    assert row.upper - row.lower < unpaired
    same = evaluate_choices(
        {"a": np.zeros(600, int), "b": np.zeros(600, int)},
        world[2],
        None,
        1,
        targets=TARGETS,
        primary="a",
        n_resamples=50,
    )
    row = rows_by_key(same)["gap closed difference", "a - b", ""]
    assert (row.estimate, row.lower, row.upper) == (0, 0, 0)


def test_without_costs_there_are_no_metrics_of_cost(world):
    choices = {"true": policy.argmax(world[0])}
    rows = evaluate_choices(choices, world[2], None, 0, targets=TARGETS, n_resamples=20)
    assert {row.metric for row in rows} == {"accuracy", "gap closed", "headroom"}


def test_groups_widen_intervals_when_queries_repeat(world):
    true, _, correct = world
    choices = {"true": policy.argmax(np.repeat(true, 4, axis=0), COST)}
    arguments = (choices, np.repeat(correct, 4, axis=0), COST, 0)
    alone = evaluate_choices(*arguments, targets=TARGETS, n_resamples=300)
    grouped = evaluate_choices(
        *arguments, np.repeat(np.arange(600), 4), targets=TARGETS, n_resamples=300
    )
    assert alone[0].estimate == pytest.approx(grouped[0].estimate)
    ratio = (grouped[0].upper - grouped[0].lower) / (alone[0].upper - alone[0].lower)
    assert ratio == pytest.approx(2, rel=0.2)


def test_best_single_may_differ_from_row_to_row(world):
    best = np.arange(600) % 3
    choices = {"same": best}
    rows = evaluate_choices(choices, world[2], COST, best, targets=TARGETS, n_resamples=20)
    assert rows_by_key(rows)["gap closed", "same", ""].estimate == 0


@pytest.mark.parametrize(
    ("choices", "changes", "says"),
    [
        ({"oracle": [0, 0]}, {}, "reserved"),
        ({"r": [0, 2]}, {}, r"outside 0\.\.1"),
        ({"r": [0, 0]}, {"primary": "s"}, "Unknown primary router 's'"),
    ],
)
def test_bad_names_and_choices_are_refused(choices, changes, says):
    choices = {name: np.array(choice) for name, choice in choices.items()}
    correct = np.array([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(InputError, match=says):
        evaluate_choices(choices, correct, None, 0, targets=("a", "b"), **changes)


def test_no_complete_row_is_an_error():
    with pytest.raises(InputError, match="labelled for every target"):
        evaluate_choices(
            {"r": np.array([0])}, np.array([[1.0, np.nan]]), None, 0, targets=("a", "b")
        )


def test_choosing_the_best_single_on_test_only_ever_looks_better():
    correct = np.array([[1, 0], [1, 1], [0, 1], [0, 1], [np.nan, 1]])
    rows = rows_by_key(evaluate_best_single(correct, 0, n_resamples=300))
    assert rows["accuracy", "chosen on training", ""].estimate == 0.5
    assert rows["accuracy", "chosen on test", ""].estimate == 0.75
    difference = rows["accuracy difference", "chosen on test - chosen on training", ""]
    assert (difference.estimate, difference.lower, difference.n) == (0.25, 0, 4)
    same = rows_by_key(evaluate_best_single(correct[:, [1, 1]], 1, n_resamples=20))
    assert same["accuracy difference", "chosen on test - chosen on training", ""].upper == 0


@pytest.mark.parametrize("n_targets", [2, 50])
def test_two_and_fifty_targets_and_fifty_queries_are_evaluated(n_targets):
    rng = np.random.default_rng(5)
    p = rng.random((50, n_targets))
    correct = (rng.random(p.shape) < p).astype(float)
    names = [f"t{k}" for k in range(n_targets)]
    rows = rows_by_key(
        evaluate_choices(
            {"r": p.argmax(axis=1)}, correct, np.arange(n_targets), 0, targets=names, n_resamples=50
        )
    )
    assert rows["gap closed", "r", ""].estimate > 0
    assert rows["cost saving", "single target", "t0"].estimate == 1  # it is free


def test_zero_costs_leave_the_saving_undefined_and_equal_ones_make_it_zero(world):
    choices = {"r": policy.argmax(world[0])}
    for cost, saving in ((np.zeros(3), np.nan), (np.full(3, 2.0), 0)):
        rows = evaluate_choices(choices, world[2], cost, 0, targets=TARGETS, n_resamples=20)
        row = rows_by_key(rows)["cost saving", "r", ""]
        assert (row.estimate, row.upper) == pytest.approx((saving, saving), nan_ok=True)
    with pytest.raises(InputError, match="unknown price is not 0"):
        evaluate_choices(choices, world[2], np.array([1, np.nan, 2]), 0, targets=TARGETS)
