import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation.curve_evaluation import compare_curves, curve_band
from prefill_router.evaluation.curve_summaries import (
    aiq,
    apgr,
    cpt,
    mdp_auccc,
    p_auccc,
    pdp_auccc,
    pgr_curve,
    saving_at_equal_accuracy,
    shared_cost_range,
)
from prefill_router.evaluation.curves import routing_curve
from prefill_router.evaluation.results import one

COST = np.array([1.0, 2.0, 6.0])


def test_curves_summaries_have_intervals_and_rank_the_true_p_first(world):
    true, noisy, correct = world
    p = {"true": true, "noisy": noisy}
    found = compare_curves(
        p, correct, COST, weak_strong=(0, 2), pairs=[("true", "noisy")], n_resamples=30
    )
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
    cost, best = np.array([1.0, 3.0, 9.0]), np.repeat([0, 1], 20)
    found = compare_curves({"r": correct}, correct, cost, best_single=best, n_resamples=5)
    rows = found.set_index("metric")["estimate"]
    assert rows["saving at equal accuracy (best)"] == pytest.approx(0)
    assert rows["saving at equal accuracy (dearest)"] == pytest.approx(1 - 2 / 9)


@pytest.mark.parametrize("cost", [np.zeros(3), np.full(3, 2.0)], ids=["zero", "equal"])
def test_zero_and_equal_costs_leave_areas_undefined_and_nothing_else(world, cost):
    true, _, correct = world
    found = compare_curves(
        {"r": true}, correct, cost, weak_strong=(0, 2), best_single=0, n_resamples=5
    )
    rows = found.set_index("metric")["estimate"]
    for metric in ("P-AUCCC", "MDP-AUCCC", "PDP-AUCCC", "AIQ"):
        assert np.isnan(rows[metric])
    assert np.isfinite(rows["APGR"])
    assert np.isnan(rows["saving at equal accuracy (best)"]) == (cost[0] == 0)


def test_an_unknown_cost_is_an_error(world):
    true, _, correct = world
    with pytest.raises(InputError, match="unknown price is not 0"):
        compare_curves({"r": true}, correct, np.array([1, np.nan, 2]), n_resamples=5)


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
    found = compare_curves(
        routers, correct, paid, expected, weak_strong=(0, 2), best_single=best, n_resamples=2
    ).set_index(["metric", "router"])["estimate"]

    some = ~np.isnan(correct).any(axis=1)
    single = paid[some].mean(axis=0), correct[some].mean(axis=0)
    points = {
        name: routing_curve(p[some], correct[some], paid[some], expected[some]).points
        for name, p in routers.items()
    }
    shared = shared_cost_range(single, *points.values())
    at = np.flatnonzero(some), best[some]
    for name, curve in points.items():
        savings = saving_at_equal_accuracy(
            curve, (paid[at].mean(), correct[at].mean()), single[0].max()
        )
        recovered = pgr_curve(routers[name][some], correct[some], 0, 2)
        want = {
            "P-AUCCC": p_auccc(curve, single),
            "MDP-AUCCC": mdp_auccc(curve, single),
            "PDP-AUCCC": pdp_auccc(curve, single),
            "AIQ": aiq(*curve, shared),
            "APGR": apgr(*recovered),
            "CPT(50 %)": cpt(*recovered, 0.5),
            "CPT(80 %)": cpt(*recovered, 0.8),
            "saving at equal accuracy (best)": savings[0],
            "saving at equal accuracy (dearest)": savings[1],
        }
        assert {metric: found[metric, name] for metric in want} == pytest.approx(want, nan_ok=True)
    own = {name: shared_cost_range(single, curve) for name, curve in points.items()}
    assert len(set(own.values())) > 1  # else a range of each router's own would do, too


def test_a_band_lies_on_the_curve_of_expected_and_actual_costs(world, costs):
    true, _, correct = world
    band = curve_band(true, correct, *costs, n_points=12, n_resamples=100)
    some = ~np.isnan(correct).any(axis=1)
    curve = routing_curve(true[some], correct[some], *(cost[some] for cost in costs))
    at = np.round(np.linspace(0, len(curve.tau) - 1, 12)).astype(int)
    assert band["estimate"].to_numpy() == pytest.approx(curve.accuracy[at])
    assert band["x"].to_numpy() == pytest.approx(curve.cost[at])
    assert ((band["lower"] < band["estimate"]) & (band["estimate"] < band["upper"])).all()
