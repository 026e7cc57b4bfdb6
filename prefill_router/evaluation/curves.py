"""Curves of accuracy against cost, and single numbers that sum one up by each source's convention.

A curve is a pair of arrays (cost, accuracy). Between two points of a curve lies a straight line:
what one gets by tossing a coin between the two policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefill_router.errors import InputError
from prefill_router.metrics import cost_saving
from prefill_router.policy import ROUNDING, aligned, gaps

Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class RoutingCurve:
    """Mean cost (USD a query) and accuracy of a policy; arrays (T,), `tau` rising."""

    tau: np.ndarray
    cost: np.ndarray
    accuracy: np.ndarray

    @property
    def points(self) -> Points:
        """The curve as (cost, accuracy), which is what summaries take."""
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


def summarise(
    curve: Points,
    targets: Points,
    cost_range: tuple[float, float],
    recovered: Points | None = None,
    best: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Return P-, MDP- and PDP-AUCCC, AIQ, APGR, CPT and what the curve saves at equal accuracy.

    Parameters
    ----------
    curve : (cost, accuracy)
        A router's points, (M,) each, in any order.
    targets : (cost, accuracy)
        The single targets, (K,) each.
    cost_range : (float, float)
        The range shared by the routers that are compared; see `shared_cost_range`.
    recovered : (share, pgr), optional
        From `pgr_curve`. Default: no APGR and CPT.
    best : (cost, accuracy), optional
        Of the best single target, as chosen on the training split, on the same queries. Default: no
        saving.

    Returns
    -------
    dict of str to float
        MDP-AUCCC is P-AUCCC minus that of the single targets' Pareto frontier: positive where the
        router beats them on the whole. PDP-AUCCC is that of the frontier of targets and curve
        together minus P-AUCCC: what is lost by using the router's points alone [T]. APGR is the PGR
        averaged over the share of strong calls, .5 by chance; CPT(x) the least share of strong
        calls at which the PGR reaches x. A saving, against the best single target or the dearest,
        is that of the curve's cheapest point as accurate as the former. NaN where there is none.
    """
    area = p_auccc(curve, targets)
    together = tuple(map(np.concatenate, zip(curve, targets, strict=True)))
    of_targets, of_all = (
        p_auccc(tuple(values[pareto_frontier(*points)] for values in points), targets)
        for points in (targets, together)
    )
    found = {"P-AUCCC": area, "MDP-AUCCC": area - of_targets, "PDP-AUCCC": of_all - area}
    found["AIQ"] = aiq(*curve, cost_range)
    if recovered is not None:
        share, pgr = recovered
        found["APGR"] = float(np.trapezoid(pgr, share))
        for level in (0.5, 0.8):
            reached = share[pgr >= level - ROUNDING]
            found[f"CPT({100 * level:.0f} %)"] = float(reached[0]) if len(reached) else np.nan
    if best is not None:
        enough = curve[1] >= best[1] - ROUNDING
        cost = np.min(curve[0], where=enough, initial=np.inf)
        cost = cost if np.isfinite(cost) else np.nan
        for name, other in (("best", best[0]), ("dearest", targets[0].max())):
            found[f"saving at equal accuracy ({name})"] = cost_saving(cost, other)
    return found


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
    curve, targets
        As for `summarise`.

    Returns
    -------
    float
        The trapezoid area over [cheapest, dearest target], divided by that range. The curve is
        padded on the left by the floor itself, on the right by its last value. Higher is better;
        0 is what the cheapest target alone gives. NaN if all targets cost the same.
    """
    low, high = targets[0].min(), targets[0].max()
    if low == high:
        return np.nan
    height = curve[1] - targets[1][targets[0] == low].max()
    place = np.round((curve[0] - low) / (high - low), 12)  # ties are ties
    order = np.lexsort((height, place))
    return _area(place[order], height[order], 0.0, 1.0, left=0.0)


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
    lead = p[:, strong] - p[:, weak]
    order = np.argsort(-lead, kind="stable")
    lead, gain = lead[order], (correct[:, strong] - correct[:, weak])[order]
    ends = np.append(np.flatnonzero(np.diff(lead)), len(lead) - 1) + 1
    gained = np.concatenate([[0], np.cumsum(gain)[ends - 1]])
    share = np.concatenate([[0], ends]) / len(lead)
    return share, gained / gained[-1] if gained[-1] > 0 else np.full(len(share), np.nan)


def _area(
    cost: np.ndarray, height: np.ndarray, low: float, high: float, left: float | None = None
) -> float:
    """Return the trapezoid area over [low, high]; `cost` rises, `height` stays flat after it."""
    inside = (cost > low) & (cost < high)
    first = np.interp(low, cost, height, left=left)
    heights = np.concatenate([[first], height[inside], [np.interp(high, cost, height)]])
    return float(np.trapezoid(heights, np.concatenate([[low], cost[inside], [high]])))
