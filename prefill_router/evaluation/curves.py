"""Curves of accuracy against cost, and the single numbers that sum them up.

A curve is a pair of arrays (cost, accuracy). Between two points of a curve lies a straight line:
what one gets by tossing a coin between the two policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefill_router.errors import InputError
from prefill_router.evaluation.metrics import cost_saving
from prefill_router.policy import ROUNDING, aligned, gaps

Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class RoutingCurve:
    """Mean cost (USD a query) and accuracy of the tolerance policy; arrays (T,), `tau` rising."""

    tau: np.ndarray
    cost: np.ndarray
    accuracy: np.ndarray

    @property
    def points(self) -> Points:
        """The curve as (cost, accuracy), which is what the summaries below take."""
        return self.cost, self.accuracy


def routing_curve(
    p: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    expected_cost: np.ndarray | None = None,
) -> RoutingCurve:
    """Evaluate the tolerance policy at every tau at which one of its choices can change.

    Parameters
    ----------
    p : (N, K) array
        Predicted P(correct).
    correct : (N, K) array
        1 right, 0 wrong; no missing labels.
    cost : (K,) or (N, K) array
        What asking turned out to cost, in USD.
    expected_cost : (K,) or (N, K) array, optional
        What the policy looks at, known before asking. Default: `cost`.

    Returns
    -------
    RoutingCurve
        From tau = 0 (argmax) to the largest gap (the cheapest target, always).

    Raises
    ------
    InputError
        If a value is missing or the shapes disagree.

    Notes
    -----
    In each row targets are admitted in order of their gap. Each admission changes the number of
    right answers and the cost by a known step; steps sorted by gap and summed give all of the
    curve, in O(N K log(N K)) instead of one evaluation for each tau.
    """
    p, seen = aligned(p, cost if expected_cost is None else expected_cost)
    correct, paid = aligned(correct, cost)
    if correct.shape != p.shape or len(p) == 0:
        raise InputError(f"Probabilities {p.shape} and labels {correct.shape} must agree.")
    gap = gaps(p)
    order = np.argsort(gap, axis=1, kind="stable")
    gap, seen, correct, paid = (
        np.take_along_axis(values, order, axis=1) for values in (gap, seen, correct, paid)
    )
    chosen = np.zeros(p.shape, dtype=np.int64)  # place, in order of gap, after each admission
    for place in range(1, p.shape[1]):
        before = chosen[:, place - 1]
        cheaper = seen[:, place] < np.take_along_axis(seen, before[:, None], axis=1)[:, 0]
        chosen[:, place] = np.where(cheaper, place, before)

    events = np.argsort(gap, axis=None, kind="stable")
    gap = gap.ravel()[events]
    tau = np.unique(gap)
    last = np.searchsorted(gap, tau + ROUNDING, side="right") - 1
    cost_at, accuracy_at = (
        np.cumsum(np.diff(np.take_along_axis(values, chosen, axis=1), prepend=0).ravel()[events])
        for values in (paid, correct)
    )
    return RoutingCurve(tau, cost_at[last] / len(p), accuracy_at[last] / len(p))


def pareto_frontier(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Return the indices, by rising cost, of the points that no other point dominates.

    Parameters
    ----------
    cost, accuracy : (M,) arrays

    Returns
    -------
    (F,) int array
        Both cost and accuracy rise strictly along the frontier.
    """
    cost, accuracy = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    order = np.lexsort((-accuracy, cost))
    best_before = np.maximum.accumulate(accuracy[order])[:-1]
    return order[np.concatenate([[True], accuracy[order][1:] > best_before])]


def hull(cost: np.ndarray, accuracy: np.ndarray) -> Points:
    """Return RouterBench's non-decreasing convex hull of a set of points.

    Parameters
    ----------
    cost, accuracy : (M,) arrays

    Returns
    -------
    cost, accuracy : (H,) arrays
        From the cheapest point to the cheapest of the most accurate, with falling slope. The hull
        of the single targets is RouterBench's Zero router.

    References
    ----------
    Hu et al., "RouterBench: A Benchmark for Multi-LLM Routing System", 2024.
    """
    cost, accuracy = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    front = pareto_frontier(cost, accuracy)
    kept: list[tuple[float, float]] = []
    for x2, y2 in zip(cost[front].tolist(), accuracy[front].tolist(), strict=True):
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (y1 - y0) * (x2 - x0) > (y2 - y0) * (x1 - x0):
                break
            kept.pop()
        kept.append((x2, y2))
    return np.array([x for x, _ in kept]), np.array([y for _, y in kept])


def shared_cost_range(*curves: Points) -> tuple[float, float]:
    """Return the costs at which all hulls are defined: from the dearest start to the largest cost.

    Parameters
    ----------
    *curves : pairs of (cost, accuracy)
        The routers to be compared. Hulls are extended flat to the largest cost of any of them.
    """
    return max(np.min(cost) for cost, _ in curves), max(np.max(cost) for cost, _ in curves)


def aiq(
    cost: np.ndarray,
    accuracy: np.ndarray,
    cost_range: tuple[float, float],
    divide_by_largest_cost: bool = False,
) -> float:
    """Return RouterBench's average improvement in quality, the mean height of a router's hull.

    Parameters
    ----------
    cost, accuracy : (M,) arrays
        A router's points.
    cost_range : (float, float)
        The range shared by the routers that are compared; see `shared_cost_range`.
    divide_by_largest_cost : bool, default False
        Divide the area by the largest cost, as RouterBench's code does, instead of by the width of
        the range. The two agree where the range begins at 0; else this one is the lower.

    Returns
    -------
    float
        NaN if the range is empty.
    """
    low, high = cost_range
    area = _area(*hull(cost, accuracy), low, high)
    divisor = high if divide_by_largest_cost else high - low
    return area / divisor if high > low else np.nan


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


@dataclass(frozen=True)
class EqualAccuracy:
    """The cheapest point of a curve that is as accurate as the best single target; savings."""

    tau: float
    cost: float
    accuracy: float
    saving_against_best: float
    saving_against_dearest: float


def saving_at_equal_accuracy(curve: RoutingCurve, targets: Points, best: int) -> EqualAccuracy:
    """Return what a router saves where it answers as well as the best single target.

    Parameters
    ----------
    curve : RoutingCurve
    targets : (cost, accuracy)
        The single targets on the same queries, (K,) each.
    best : int
        The best single target, as chosen on the training split.

    Returns
    -------
    EqualAccuracy
        All NaN if the curve is nowhere as accurate.
    """
    cost, accuracy = (np.asarray(values, dtype=float) for values in targets)
    enough = np.flatnonzero(curve.accuracy >= accuracy[best] - ROUNDING)
    if len(enough) == 0:
        return EqualAccuracy(*[np.nan] * 5)
    at = enough[np.lexsort((-curve.accuracy[enough], curve.cost[enough]))[0]]
    return EqualAccuracy(
        float(curve.tau[at]),
        float(curve.cost[at]),
        float(curve.accuracy[at]),
        float(cost_saving(curve.cost[at], cost[best])),
        float(cost_saving(curve.cost[at], cost.max())),
    )


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
