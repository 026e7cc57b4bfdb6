"""Routing curves with intervals: their summaries for several routers, a band for one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.bootstrap import OfRows, estimate
from prefill_router.evaluation.comparison import Pairs, check_names, with_differences
from prefill_router.evaluation.complete import complete
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
from prefill_router.evaluation.results import Quantity

EQUAL_ACCURACY = ("saving at equal accuracy (best)", "saving at equal accuracy (dearest)")


def compare_curves(
    p: Mapping[str, np.ndarray],
    correct: np.ndarray,
    cost: np.ndarray,
    expected_cost: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    *,
    weak_strong: tuple[int, int] | None = None,
    best_single: int | np.ndarray | None = None,
    pairs: Pairs = (),
    split: str = "test",
    n_resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare routing curves: P-, MDP- and PDP-AUCCC, AIQ, and APGR and CPT of two targets.

    Parameters
    ----------
    p : mapping of router -> (N, K) array
        Predicted P(correct).
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    cost, expected_cost : (K,) or (N, K) arrays
        What asking cost and, by default the same, what the policy looks at; USD a query.
    groups, pairs, split, seed
        As for `prefill_router.evaluation.comparison.compare_choices`.
    weak_strong : (int, int), optional
        The targets of RouteLLM's APGR and CPT(50 %), CPT(80 %).
    best_single : int or (N,) int array, optional
        The best single target, chosen on training queries, for the saving at equal accuracy: that
        of the curve's cheapest point as accurate as it, against its cost and the dearest's.
    n_resamples : int, default 200
        Each draws all curves anew.

    Returns
    -------
    pandas.DataFrame
        Results. AIQ is taken over the range of costs that the routers and the Zero router share;
        RouterBench's code divides by the largest cost instead, which gives the same where that
        range begins at 0 and less elsewhere.

    Notes
    -----
    The saving at equal accuracy finds its point on the queries it is reported on: it says what the
    curve holds, not what a tolerance chosen beforehand saves. Resamples in which the curve is
    nowhere as accurate are left out of its interval.
    """
    check_names(p, pairs)
    kept = complete(correct, cost, groups)
    rows, correct, paid = kept.rows, kept.correct, kept.cost
    seen = paid if expected_cost is None else kept.costs(expected_cost)
    p = {name: np.asarray(values, dtype=np.float64)[rows] for name, values in p.items()}
    everything = np.arange(len(correct))
    if best_single is not None:
        single = np.broadcast_to(best_single, rows.shape)[rows]
        of_best = paid[everything, single], correct[everything, single]

    def summaries(drawn: np.ndarray) -> dict[str, dict[str, float]]:
        """Summarise each router's curve on some rows, by the router's name."""
        targets = paid[drawn].mean(axis=0), correct[drawn].mean(axis=0)
        curves = {
            name: routing_curve(v[drawn], correct[drawn], paid[drawn], seen[drawn]).points
            for name, v in p.items()
        }
        shared = shared_cost_range(targets, *curves.values())
        found = {}
        for name, curve in curves.items():
            found[name] = {
                "P-AUCCC": p_auccc(curve, targets),
                "MDP-AUCCC": mdp_auccc(curve, targets),
                "PDP-AUCCC": pdp_auccc(curve, targets),
                "AIQ": aiq(*curve, shared),
            }
            if weak_strong is not None:
                recovered = pgr_curve(p[name][drawn], correct[drawn], *weak_strong)
                found[name] |= {
                    "APGR": apgr(*recovered),
                    "CPT(50 %)": cpt(*recovered, 0.5),
                    "CPT(80 %)": cpt(*recovered, 0.8),
                }
            if best_single is not None:
                best = tuple(values[drawn].mean() for values in of_best)
                savings = saving_at_equal_accuracy(curve, best, targets[0].max())
                found[name] |= dict(zip(EQUAL_ACCURACY, savings, strict=True))
        return found

    places = {name: place for place, name in enumerate(p)}
    measures = {
        metric: lambda m, a, at=place: m["summaries"][:, places[a], at]
        for place, metric in enumerate(next(iter(summaries(everything).values())))
    }
    statistic = OfRows(
        lambda drawn: [list(found.values()) for found in summaries(drawn).values()], len(correct)
    )
    # Hulls, frontiers and the best of many points follow noise upward: hence centred intervals.
    return estimate(
        {"summaries": statistic},
        with_differences(measures, p, pairs, split=split),
        kept.groups,
        n_resamples=n_resamples,
        seed=seed,
        centred=True,
    )


def curve_band(
    p: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    expected_cost: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    *,
    n_points: int = 40,
    n_resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a routing curve at a few tolerances, with the interval of its accuracy at each.

    Parameters
    ----------
    p, correct, cost, expected_cost, groups, n_resamples, seed
        As for `compare_curves`, for one router.
    n_points : int, default 40
        At most so many points, spread evenly over the taus at which choices change.

    Returns
    -------
    pandas.DataFrame
        Results: "accuracy" at points whose mean cost, in USD a query, is `x`; tau rises.
    """
    kept = complete(correct, cost, groups)
    rows, correct, paid = kept.rows, kept.correct, kept.cost
    seen = paid if expected_cost is None else kept.costs(expected_cost)
    p = np.asarray(p, dtype=np.float64)[rows]
    curve = routing_curve(p, correct, paid, seen)
    places = np.unique(np.linspace(0, len(curve.tau) - 1, n_points).round().astype(int))
    chosen = np.column_stack([policy.tolerance(p, seen, tau) for tau in curve.tau[places]])
    points = tuple(Quantity("accuracy", x=x) for x in curve.cost[places])
    return estimate(
        {"right": np.take_along_axis(correct, chosen, axis=1)},
        {points: lambda m: m["right"]},
        kept.groups,
        n_resamples=n_resamples,
        seed=seed,
    )
