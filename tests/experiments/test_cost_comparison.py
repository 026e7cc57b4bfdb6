import numpy as np
import pytest

from prefill_router import policy
from prefill_router.evaluation.comparison import ENCODER_INCLUDED, Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import cost_comparison
from prefill_router.experiments.cost_comparison import (
    ERROR,
    MEAN,
    MEDIAN,
    PREDICTED,
    SAVING,
    compare_costs,
)

TARGETS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def pool():
    """Targets that are alike but for what an answer costs, which varies tenfold by query."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 0.9, size=(300, 1)) + rng.normal(0, 0.03, size=(300, 3))
    correct = (rng.random((300, 3)) < truth).astype(float)
    paid = 10 ** rng.uniform(-1, 1, size=(300, 3))
    median = np.repeat(np.median(paid, axis=0)[None], 300, axis=0)
    return truth, correct, paid, median


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Look at fewer settings, to be quick."""
    monkeypatch.setattr(cost_comparison, "POINTS", 80)


def compare(pool, expected, best=0, encoder_cost=None):
    p, correct, paid, _ = pool
    at = Evaluation(correct, paid, best_single=best, targets=TARGETS, n_resamples=50)
    return compare_costs(at, p, expected, encoder_cost)


def test_the_saving_is_that_of_the_cheapest_setting_that_is_as_accurate(pool):
    """By brute force: every gap is a tolerance."""
    p, correct, paid, median = pool
    found = compare(pool, {PREDICTED: paid, MEDIAN: median})
    for way, seen in ((PREDICTED, paid), (MEDIAN, median)):
        least = np.inf
        for tau in np.unique(policy.gaps(p)):
            chosen = policy.tolerance(p, seen, tau)[:, None]
            if np.take_along_axis(correct, chosen, 1).mean() >= correct[:, 0].mean() - 1e-12:
                least = min(least, np.take_along_axis(paid, chosen, 1).mean())
        saving = one(found, metric=SAVING, router=f"tolerance, {way}").estimate
        assert saving <= 1 - least / paid[:, 0].mean() + 1e-12
        assert saving == pytest.approx(1 - least / paid[:, 0].mean(), abs=0.06)


def difference(found, name, other):
    pair = {"router": f"{name}, {PREDICTED}", "versus": f"{name}, {other}"}
    return one(found, metric=SAVING, **pair)


@pytest.mark.parametrize("name", ["tolerance", "utility"])
def test_knowing_costs_that_vary_saves(pool, name):
    _, _, paid, median = pool
    assert difference(compare(pool, {PREDICTED: paid, MEDIAN: median}), name, MEDIAN).lower > 0.1
    assert difference(compare(pool, {PREDICTED: median, MEAN: paid}), name, MEAN).upper < 0
    same = difference(compare(pool, {PREDICTED: median, MEAN: median}), name, MEAN)
    assert same.estimate == same.lower == same.upper == 0


def test_a_prediction_that_knows_nothing_is_no_better_than_the_mean():
    """Though it may be far better than the median, where lengths are skewed."""
    rng = np.random.default_rng(0)
    truth = np.column_stack([rng.uniform(0.5, 0.7, 400)] * 2)
    truth[:, 1] += rng.normal(0, 0.05, 400)
    correct = (rng.random((400, 2)) < truth).astype(float)
    paid = np.column_stack([np.full(400, 1.2), rng.lognormal(-1.0, 2.0, 400)])
    mean, median = (np.tile(f(paid, axis=0), (400, 1)) for f in (np.mean, np.median))
    ways = {PREDICTED: mean, MEAN: mean.copy(), MEDIAN: median}
    at = Evaluation(correct, paid, best_single=0, targets=("a", "b"), n_resamples=100)
    found = compare_costs(at, truth, ways)
    for name in ("tolerance", "utility"):
        assert difference(found, name, MEAN).estimate == 0


def test_only_routing_pays_the_encoder(pool):
    _, _, paid, median = pool
    cost = np.full(300, 0.25)
    found = compare(pool, {PREDICTED: paid, MEDIAN: median}, encoder_cost=cost)
    for way in (PREDICTED, MEDIAN):
        router = f"utility, {way}"
        without = one(found, metric=SAVING, router=router).estimate
        included = one(found, metric=SAVING + ENCODER_INCLUDED, router=router).estimate
        assert without - included == pytest.approx(0.25 / paid[:, 0].mean())
    assert not any(ENCODER_INCLUDED in metric for metric in compare(pool, {PREDICTED: paid}).metric)


def test_errors_are_shares_of_the_mean_cost(pool):
    _, _, paid, median = pool
    found = compare(pool, {PREDICTED: paid * 1.1, MEDIAN: median})
    for k, target in enumerate(TARGETS):
        expected = np.sqrt(np.mean((median - paid)[:, k] ** 2)) / paid[:, k].mean()
        error = {"metric": ERROR, "target": target}
        assert one(found, router=MEDIAN, **error).estimate == pytest.approx(expected)
        assert one(found, router=PREDICTED, versus=MEDIAN, **error).upper < 0


def test_the_best_single_target_may_differ_by_row(pool):
    _, _, paid, median = pool
    best = np.arange(300) % 3
    # the same targets in another order in each row, so that the best single one is the first
    moved = [np.take_along_axis(x, (np.arange(3) + best[:, None]) % 3, axis=1) for x in pool]
    by_row = compare(pool, {PREDICTED: paid, MEDIAN: median}, best)
    alike = compare(moved, {PREDICTED: moved[2], MEDIAN: moved[3]})
    first = compare(pool, {PREDICTED: paid, MEDIAN: median})
    saved = [select(found, metric=SAVING).estimate.tolist() for found in (by_row, alike, first)]
    assert saved[0] == pytest.approx(saved[1]) and saved[0] != pytest.approx(saved[2])
