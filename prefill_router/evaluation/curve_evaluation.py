"""Routing curves with intervals: their summaries for several routers, a band for one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.bootstrap import OfRows, estimate, intervals, row_intervals
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
from prefill_router.evaluation.estimates import Estimate, rows_of


def evaluate_curves(
    p: Mapping[str, np.ndarray],
    correct: np.ndarray,
    cost: np.ndarray,
    expected_cost: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    *,
    pair: tuple[int, int] | None = None,
    best_single: int | np.ndarray | None = None,
    n_resamples: int = 200,
    seed: int = 0,
) -> list[Estimate]:
    """Evaluate routing curves: P-, MDP- and PDP-AUCCC, AIQ, and APGR and CPT for a pair.

    Parameters
    ----------
    p : mapping of router -> (N, K) array
        Predicted P(correct).
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    cost, expected_cost : (K,) or (N, K) arrays
        What asking cost and, by default the same, what the policy looks at; USD a query.
    groups, seed
        As in `choices.evaluate_choices`.
    pair : (weak, strong), optional
        The targets for RouteLLM's APGR and CPT(50 %), CPT(80 %).
    best_single : int or (N,) int array, optional
        The best single target, chosen on training queries, for the saving at equal accuracy: that
        of the curve's cheapest point as accurate as it, against its cost and the dearest's.
    n_resamples : int, default 200
        Each draws all curves anew.

    Returns
    -------
    list of Estimate
        AIQ is taken over the range of costs that the routers and the Zero router share.

    Notes
    -----
    The saving at equal accuracy finds its point on the queries it is reported on: it says what the
    curve holds, not what a tolerance chosen beforehand saves. Resamples in which the curve is
    nowhere as accurate are left out of its interval.
    """
    kept = complete(correct, cost, groups)
    rows, correct, paid = kept.rows, kept.correct, kept.cost
    seen = paid if expected_cost is None else kept.costs(expected_cost)
    p = {name: np.asarray(values, dtype=np.float64)[rows] for name, values in p.items()}
    names = ["P-AUCCC", "MDP-AUCCC", "PDP-AUCCC", "AIQ", "AIQ (divided by the largest cost)"]
    names += [] if pair is None else ["APGR", "CPT(50 %)", "CPT(80 %)"]
    if best_single is not None:
        names += [f"saving at equal accuracy ({name})" for name in ("best", "dearest")]
        single_rows = np.arange(len(correct)), np.broadcast_to(best_single, rows.shape)[rows]
        best_paid, best_correct = paid[single_rows], correct[single_rows]

    def summaries(drawn: np.ndarray) -> np.ndarray:
        single = (paid[drawn].mean(axis=0), correct[drawn].mean(axis=0))
        routed = {
            name: routing_curve(v[drawn], correct[drawn], paid[drawn], seen[drawn])
            for name, v in p.items()
        }
        points = {name: curve.points for name, curve in routed.items()}
        shared = shared_cost_range(single, *points.values())
        values = []
        areas = (p_auccc, mdp_auccc, pdp_auccc)
        for name, curve in points.items():
            values += [area(curve, single) for area in areas]
            values += [aiq(*curve, shared, by_largest) for by_largest in (False, True)]
            if pair is not None:
                recovered = pgr_curve(p[name][drawn], correct[drawn], *pair)
                values += [apgr(*recovered)]
                values += [cpt(*recovered, level) for level in (0.5, 0.8)]
            if best_single is not None:
                # the best one is appended to the targets: folds may differ in which it is
                best = best_paid[drawn].mean(), best_correct[drawn].mean()
                with_best = [np.append(*values_of) for values_of in zip(single, best, strict=True)]
                found = saving_at_equal_accuracy(routed[name], with_best, best=-1)
                values += [found.saving_against_best, found.saving_against_dearest]
        return np.array(values)

    # Hulls, frontiers and the best of many points follow noise upward: hence centred intervals.
    found = iter(
        row_intervals(summaries, len(correct), kept.groups, n_resamples, seed, centred=True)
    )
    return [
        estimate
        for router in p
        for name in names
        for estimate in rows_of(name, [(router, "")], [next(found)], "test", len(correct))
    ]


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
    names = ["P-AUCCC", "MDP-AUCCC", "PDP-AUCCC", "AIQ"]
    names += [] if weak_strong is None else ["APGR", "CPT(50 %)", "CPT(80 %)"]
    if best_single is not None:
        names += [f"saving at equal accuracy ({name})" for name in ("best", "dearest")]
        single_rows = np.arange(len(correct)), np.broadcast_to(best_single, rows.shape)[rows]
        best_paid, best_correct = paid[single_rows], correct[single_rows]

    def summaries(drawn: np.ndarray) -> np.ndarray:
        single = (paid[drawn].mean(axis=0), correct[drawn].mean(axis=0))
        routed = {
            name: routing_curve(v[drawn], correct[drawn], paid[drawn], seen[drawn])
            for name, v in p.items()
        }
        shared = shared_cost_range(single, *(curve.points for curve in routed.values()))
        values = np.empty((len(p), len(names)))
        for row, (name, curve) in zip(values, routed.items(), strict=True):
            found = [area(curve.points, single) for area in (p_auccc, mdp_auccc, pdp_auccc)]
            found.append(aiq(*curve.points, shared))
            if weak_strong is not None:
                recovered = pgr_curve(p[name][drawn], correct[drawn], *weak_strong)
                found += [apgr(*recovered), cpt(*recovered, 0.5), cpt(*recovered, 0.8)]
            if best_single is not None:
                # the best one is appended to the targets: folds may differ in which it is
                best = best_paid[drawn].mean(), best_correct[drawn].mean()
                with_best = [np.append(*values_of) for values_of in zip(single, best, strict=True)]
                equal = saving_at_equal_accuracy(curve, with_best, best=-1)
                found += [equal.saving_against_best, equal.saving_against_dearest]
            row[:] = found
        return values

    places = {name: place for place, name in enumerate(p)}
    measures = {
        name: lambda m, a, at=at: m["summaries"][:, places[a], at] for at, name in enumerate(names)
    }
    # Hulls, frontiers and the best of many points follow noise upward: hence centred intervals.
    return estimate(
        {"summaries": OfRows(summaries, len(correct))},
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
        As in `evaluate_curves`, for one router.
    n_points : int, default 40
        At most so many points, spread evenly over the taus at which choices change.

    Returns
    -------
    pandas.DataFrame
        Columns tau, cost (USD a query), accuracy, lower, upper; `tau` rises.
    """
    kept = complete(correct, cost, groups)
    rows, correct, paid = kept.rows, kept.correct, kept.cost
    seen = paid if expected_cost is None else kept.costs(expected_cost)
    p = np.asarray(p, dtype=np.float64)[rows]
    curve = routing_curve(p, correct, paid, seen)
    places = np.unique(np.linspace(0, len(curve.tau) - 1, n_points).round().astype(int))
    chosen = np.column_stack([policy.tolerance(p, seen, tau) for tau in curve.tau[places]])
    right = np.take_along_axis(correct, chosen, axis=1)
    found = intervals(right, kept.groups, n_resamples=n_resamples, seed=seed)
    return pd.DataFrame(
        {
            "tau": curve.tau[places],
            "cost": curve.cost[places],
            "accuracy": [interval.estimate for interval in found],
            "lower": [interval.lower for interval in found],
            "upper": [interval.upper for interval in found],
        }
    )
