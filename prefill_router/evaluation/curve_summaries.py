"""Single numbers that sum up a curve of accuracy against cost, by each source's convention."""

from __future__ import annotations

import numpy as np

from prefill_router.evaluation.curves import Points, hull, pareto_frontier
from prefill_router.metrics import cost_saving
from prefill_router.policy import ROUNDING

Savings = tuple[float, float]


def shared_cost_range(*curves: Points) -> tuple[float, float]:
    """Return the costs at which all hulls are defined: from the dearest start to the largest cost.

    Parameters
    ----------
    *curves : pairs of (cost, accuracy)
        The routers to be compared. Hulls are extended flat to the largest cost of any of them.
    """
    return max(np.min(cost) for cost, _ in curves), max(np.max(cost) for cost, _ in curves)


def aiq(cost: np.ndarray, accuracy: np.ndarray, cost_range: tuple[float, float]) -> float:
    """Return RouterBench's average improvement in quality, the mean height of a router's hull.

    Parameters
    ----------
    cost, accuracy : (M,) arrays
        A router's points.
    cost_range : (float, float)
        The range shared by the routers that are compared; see `shared_cost_range`.

    Returns
    -------
    float
        NaN if the range is empty. RouterBench's code divides by the largest cost instead of the
        width of the range: the same where it begins at 0, else lower.
    """
    low, high = cost_range
    return _area(*hull(cost, accuracy), low, high) / (high - low) if high > low else np.nan


def p_auccc(curve: Points, targets: Points) -> float:
    """Return P-AUCCC: the mean height of a curve above the cheapest target's accuracy [T].

    Parameters
    ----------
    curve : (cost, accuracy)
        A router's points, (M,) each, in any order.
    targets : (cost, accuracy)
        The single targets, (K,) each.

    Returns
    -------
    float
        The trapezoid area over [cheapest, dearest target], divided by that range. The curve is
        padded on the left by the floor itself, on the right by its last value. Higher is better;
        0 is what the cheapest target alone gives. NaN if all targets cost the same.
    """
    target_cost, target_accuracy = (np.asarray(values, dtype=float) for values in targets)
    low, high = target_cost.min(), target_cost.max()
    if low == high:
        return np.nan
    floor = target_accuracy[target_cost == low].max()
    height = np.asarray(curve[1], dtype=float) - floor
    place = np.round((np.asarray(curve[0], dtype=float) - low) / (high - low), 12)  # ties are ties
    order = np.lexsort((height, place))
    return _area(place[order], height[order], 0.0, 1.0, left=0.0)


def mdp_auccc(curve: Points, targets: Points) -> float:
    """Return MDP-AUCCC: `p_auccc` minus that of the single targets' Pareto frontier [T].

    Positive where the router beats the single targets on the whole; higher is better.
    """
    cost, accuracy = (np.asarray(values) for values in targets)
    front = pareto_frontier(cost, accuracy)
    return p_auccc(curve, targets) - p_auccc((cost[front], accuracy[front]), targets)


def pdp_auccc(curve: Points, targets: Points) -> float:
    """Return PDP-AUCCC: that of the Pareto frontier of targets and curve, minus `p_auccc` [T].

    What is lost by using the router's points alone; near 0 is better.
    """
    cost, accuracy = (np.concatenate([curve[i], targets[i]]) for i in (0, 1))
    front = pareto_frontier(cost, accuracy)
    return p_auccc((cost[front], accuracy[front]), targets) - p_auccc(curve, targets)


def saving_at_equal_accuracy(curve: Points, best: tuple[float, float], dearest: float) -> Savings:
    """Return what a router saves where it answers as well as the best single target.

    Parameters
    ----------
    curve : (cost, accuracy)
        A router's points, (M,) each.
    best : (cost, accuracy)
        Of the best single target, as chosen on the training split, on the same queries.
    dearest : float
        Cost of the dearest target.

    Returns
    -------
    against_best, against_dearest : float
        Of the cheapest point that is as accurate as the best single target; NaN if none is.
    """
    enough = np.asarray(curve[1]) >= best[1] - ROUNDING
    cost = np.min(curve[0], where=enough, initial=np.inf)
    if np.isinf(cost):
        return np.nan, np.nan
    return float(cost_saving(cost, best[0])), float(cost_saving(cost, dearest))


def pgr_curve(p: np.ndarray, correct: np.ndarray, weak: int, strong: int) -> Points:
    """Return RouteLLM's performance gap recovered against the share of strong calls.

    Queries go to the strong target in order of p_strong - p_weak; equal ones go together.

    Parameters
    ----------
    p, correct : (N, K) arrays
        Predicted P(correct), and 1 right or 0 wrong.
    weak, strong : int
        The two targets that are routed between.

    Returns
    -------
    share, pgr : (M,) arrays
        From share 0 (pgr 0) to share 1 (pgr 1); pgr is NaN where strong is no better than weak.

    References
    ----------
    Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data", 2024.
    """
    p, correct = np.asarray(p, dtype=float), np.asarray(correct, dtype=float)
    lead = p[:, strong] - p[:, weak]
    order = np.argsort(-lead, kind="stable")
    lead, gain = lead[order], (correct[:, strong] - correct[:, weak])[order]
    ends = np.append(np.flatnonzero(np.diff(lead)), len(lead) - 1) + 1
    gained = np.concatenate([[0], np.cumsum(gain)[ends - 1]])
    share = np.concatenate([[0], ends]) / len(lead)
    return share, gained / gained[-1] if gained[-1] > 0 else np.full(len(share), np.nan)


def apgr(share: np.ndarray, pgr: np.ndarray) -> float:
    """Return the PGR averaged over the share of strong calls; .5 is what chance gives."""
    return float(np.trapezoid(pgr, share))


def cpt(share: np.ndarray, pgr: np.ndarray, level: float) -> float:
    """Return CPT(level): the least share of strong calls at which the PGR reaches `level`."""
    reached = share[pgr >= level - ROUNDING]
    return float(reached[0]) if len(reached) else np.nan


def _area(
    cost: np.ndarray, height: np.ndarray, low: float, high: float, left: float | None = None
) -> float:
    """Return the trapezoid area over [low, high]; `cost` rises, `height` stays flat after it."""
    inside = (cost > low) & (cost < high)
    first = np.interp(low, cost, height, left=left)
    heights = np.concatenate([[first], height[inside], [np.interp(high, cost, height)]])
    return float(np.trapezoid(heights, np.concatenate([[low], cost[inside], [high]])))
