import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation import curves
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import one

COST = np.array([1.0, 2.0, 6.0])


def estimates(found, *index):
    return found.set_index([*index, "metric"] if index else "metric")["estimate"]


def test_curves_summaries_have_intervals_and_rank_the_true_p_first(world):
    true, noisy, correct = world
    p = {"true": true, "noisy": noisy}
    at = Evaluation(correct, COST, n_resamples=30)
    found = at.curves(p, pairs=[("true", "noisy")], weak_strong=(0, 2))
    for metric in ("P-AUCCC", "MDP-AUCCC", "AIQ", "APGR"):
        a, b = (one(found, metric=metric, router=name) for name in p)
        difference = one(found, metric=metric, router="true", versus="noisy")
        assert a.estimate > b.estimate and a.lower < a.estimate < a.upper
        assert difference.estimate == pytest.approx(a.estimate - b.estimate)
        assert difference.upper - difference.lower < a.upper - a.lower + b.upper - b.lower
    assert len(found) == 3 * 7


def test_the_best_single_target_may_differ_between_folds():
    # each half has a best target that is always right there; both together cost 1 and 3
    correct = np.repeat([[1.0, 0, 0], [0, 1, 0]], 20, axis=0)
    at = Evaluation(correct, [1.0, 3.0, 9.0], best_single=np.repeat([0, 1], 20), n_resamples=5)
    rows = estimates(at.curves({"r": correct}))
    assert rows["saving at equal accuracy (best)"] == pytest.approx(0)
    assert rows["saving at equal accuracy (dearest)"] == pytest.approx(1 - 2 / 9)


@pytest.mark.parametrize("cost", [np.zeros(3), np.full(3, 2.0)], ids=["zero", "equal"])
def test_zero_and_equal_costs_leave_areas_undefined_and_nothing_else(world, cost):
    true, _, correct = world
    at = Evaluation(correct, cost, best_single=0, n_resamples=5)
    rows = estimates(at.curves({"r": true}, weak_strong=(0, 2)))
    assert rows[["P-AUCCC", "MDP-AUCCC", "PDP-AUCCC", "AIQ"]].isna().all()
    assert np.isfinite(rows["APGR"])
    assert np.isnan(rows["saving at equal accuracy (best)"]) == (cost[0] == 0)


@pytest.mark.parametrize(
    ("cost", "says"), [([1, np.nan, 2], "unknown price is not 0"), (None, "Costs of shape")]
)
def test_unknown_costs_are_an_error(world, cost, says):
    true, _, correct = world
    with pytest.raises(InputError, match=says):
        Evaluation(correct, cost, n_resamples=5).curves({"r": true})


@pytest.fixture(scope="module")
def costs(world):
    """What each query turned out to cost, and what was expected of it: far from the same."""
    rng = np.random.default_rng(1)
    paid = COST * rng.lognormal(0, 1, world[2].shape)
    return paid, paid * rng.lognormal(0, 1, paid.shape)


def test_the_policy_looks_at_expected_costs_and_pays_the_actual_ones(world, costs):
    """Every summary equals that of `curves` on the complete rows; AIQ is over one range for all."""
    true, noisy, correct = world
    paid, expected = costs
    routers = {"true": true, "noisy": noisy, "dearest": paid / paid.max()}
    best = np.repeat([1, 2], 300)
    at = Evaluation(correct, paid, best_single=best, n_resamples=2)
    found = estimates(at.curves(routers, expected, weak_strong=(0, 2)), "router")

    some = ~np.isnan(correct).any(axis=1)
    single = paid[some].mean(axis=0), correct[some].mean(axis=0)
    points = {
        name: curves.routing_curve(p[some], correct[some], paid[some], expected[some]).points
        for name, p in routers.items()
    }
    shared = curves.shared_cost_range(single, *points.values())
    cells = np.flatnonzero(some), best[some]
    for name, curve in points.items():
        recovered = curves.pgr_curve(routers[name][some], correct[some], 0, 2)
        at_best = paid[cells].mean(), correct[cells].mean()
        want = curves.summarise(curve, single, shared, recovered, at_best)
        assert found[name].to_dict() == pytest.approx(want, nan_ok=True) and len(want) == 9
    own = {name: curves.shared_cost_range(single, curve) for name, curve in points.items()}
    assert len(set(own.values())) > 1  # else a range of each router's own would do, too


def test_a_band_lies_on_the_curve_of_expected_and_actual_costs(world, costs):
    true, _, correct = world
    band = Evaluation(correct, costs[0], n_resamples=100).band(true, costs[1], n_points=12)
    some = ~np.isnan(correct).any(axis=1)
    curve = curves.routing_curve(true[some], correct[some], *(cost[some] for cost in costs))
    at = np.round(np.linspace(0, len(curve.tau) - 1, 12)).astype(int)
    assert band["estimate"].to_numpy() == pytest.approx(curve.accuracy[at])
    assert band["x"].to_numpy() == pytest.approx(curve.cost[at])
    assert ((band["lower"] < band["estimate"]) & (band["estimate"] < band["upper"])).all()
