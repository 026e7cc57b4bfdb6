import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation import metrics
from prefill_router.evaluation.mistakes import evaluate_mistakes, evaluate_win_rates


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    p = rng.random((300, 3))
    correct = (rng.random(p.shape) < p).astype(float)
    correct[::30, 1] = np.nan
    return p, correct, {"best": p.argmax(axis=1), "worst": p.argmin(axis=1)}


def rows_by_key(estimates):
    return {(row.metric, row.router): row for row in estimates}


def test_mistakes_equal_the_metrics_on_complete_rows(world):
    p, correct, choices = world
    found = evaluate_mistakes(dict.fromkeys(choices, p), choices, correct, tau=0.2, n_resamples=100)
    rows, complete = rows_by_key(found), ~np.isnan(correct).any(axis=1)
    y = correct[complete]
    for name, choice in choices.items():
        chosen = choice[complete]
        near = metrics.near_misses(p[complete], chosen, y, 0.2)
        wrong = y[np.arange(len(y)), chosen] == 0
        regret = metrics.regret(chosen, y)
        for metric, value in (
            ("regret", regret.mean()),
            ("near misses", near.mean()),
            ("near misses among errors", near.sum() / wrong.sum()),
        ):
            row = rows[metric, name]
            assert row.estimate == pytest.approx(value)
            assert row.lower < row.estimate < row.upper
            assert row.n == complete.sum()
    assert rows["regret", "best"].upper < rows["regret", "worst"].lower


def test_win_rates_are_plain_counts_and_go_both_ways(world):
    _, correct, choices = world
    choices = choices | {"first": np.zeros(300, int)}
    rows = rows_by_key(evaluate_win_rates(choices, correct, n_resamples=100))
    y = correct[~np.isnan(correct).any(axis=1)]
    kept = ~np.isnan(correct).any(axis=1)
    right = np.column_stack([y[np.arange(len(y)), c[kept]] for c in choices.values()])
    names = list(choices)
    for i in range(3):
        for j in range(i + 1, 3):
            pair = f"{names[i]} over {names[j]}"
            won = int(((right[:, i] == 1) & (right[:, j] == 0)).sum())
            lost = int(((right[:, i] == 0) & (right[:, j] == 1)).sum())
            assert rows["win rate", pair].estimate == pytest.approx(won / (won + lost))
            assert rows["decided", pair].estimate == pytest.approx((won + lost) / len(right))
    assert rows["win rate", "best over worst"].lower > 0.5
    back = dict(reversed(choices.items()))
    backwards = rows_by_key(evaluate_win_rates(back, correct, n_resamples=100))
    row, other = rows["win rate", "best over worst"], backwards["win rate", "worst over best"]
    assert (row.estimate, row.lower) == pytest.approx((1 - other.estimate, 1 - other.upper))


def test_routers_that_never_differ_have_no_win_rate(world):
    _, correct, choices = world
    twins = {"a": choices["best"], "b": choices["best"]}
    rows = rows_by_key(evaluate_win_rates(twins, correct, n_resamples=20))
    assert np.isnan(rows["win rate", "a over b"].estimate)
    assert rows["decided", "a over b"].upper == 0


def test_a_router_that_is_never_wrong_has_no_near_misses_among_errors():
    correct = np.array([[1.0, 0.0], [1.0, 1.0]])
    choices = {"r": np.zeros(2, int)}
    rows = rows_by_key(evaluate_mistakes({"r": correct}, choices, correct, n_resamples=20))
    assert np.isnan(rows["near misses among errors", "r"].estimate)
    assert rows["regret", "r"].upper == 0


def test_bad_input_is_named(world):
    p, correct, choices = world
    with pytest.raises(InputError, match="name the same"):
        evaluate_mistakes({"best": p}, choices, correct)
