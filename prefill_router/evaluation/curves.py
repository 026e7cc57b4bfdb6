"""Curves of accuracy against cost; `curve_summaries` has the numbers that sum them up.

A curve is a pair of arrays (cost, accuracy). Between two points of a curve lies a straight line:
what one gets by tossing a coin between the two policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefill_router.errors import InputError
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
        """The curve as (cost, accuracy), which is what `curve_summaries` takes."""
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
