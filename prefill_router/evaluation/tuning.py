"""The parameter of a policy, chosen on validation queries."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.curves import RoutingCurve, routing_curve

LAMBDAS = 512  # tried at most, of those at which choices change


def choose_parameter(
    p: np.ndarray,
    correct: np.ndarray,
    expected_cost: np.ndarray,
    name: str = "tolerance",
    as_accurate_as: int | None = None,
) -> float:
    """Choose a policy's parameter by accuracy on validation; of equals, the cheapest.

    Parameters
    ----------
    p, correct : (N, K) arrays
        Predicted P(correct) and labels of the validation queries; incomplete rows are left out.
    expected_cost : (K,) or (N, K) array
        Cost of asking as known beforehand, in USD.
    name : {"tolerance", "utility"}, default "tolerance"
        The policy, of `prefill_router.policy`.
    as_accurate_as : int, optional
        A target, such as the best single one of the training split: then the cheapest parameter
        that is on validation as accurate as it, or the most accurate where none is.

    Returns
    -------
    float
        tau or lambda.

    Raises
    ------
    InputError
        If no row is complete.
    """
    rows, kept = Evaluation(correct, expected_cost).complete()
    curve = routing_curve if name == "tolerance" else _utility_curve
    tried = curve(np.asarray(p, dtype=np.float64)[rows], kept.correct, kept.cost)
    order = np.lexsort((tried.tau, tried.cost, -tried.accuracy))
    if as_accurate_as is not None:
        wanted = kept.correct[:, as_accurate_as].mean()
        enough = np.flatnonzero(tried.accuracy >= wanted - policy.ROUNDING)
        if len(enough):
            order = enough[np.lexsort((-tried.accuracy[enough], tried.cost[enough]))]
    return float(tried.tau[order[0]])


def fit_budget(p: np.ndarray, expected_cost: np.ndarray, budget: float) -> float:
    """Return the least lambda with which `policy.utility` spends at most `budget` on average.

    Parameters
    ----------
    p : (N, K) array
        Predicted P(correct) of validation queries.
    expected_cost : (K,) or (N, K) array
        Cost of asking as known beforehand, in USD.
    budget : float
        Average spend, in USD a query.

    Returns
    -------
    float
        0 where asking the likeliest target is within the budget. Of all choices that cost as much,
        those of a lambda promise the most right answers: it is the price of the constraint.

    Raises
    ------
    InputError
        If always asking the cheapest target costs more than that.
    """
    p, c = policy.aligned(p, expected_cost)
    least = c.min(axis=1).mean()
    if not budget >= least - policy.ROUNDING * least:
        raise InputError(
            f"The budget of {budget:g} USD a query is less than the {least:g} that always asking "
            "the cheapest target is expected to cost; allow that much."
        )
    lams = np.concatenate([[0.0], np.unique(tied_lambdas(p, c))])  # choices change only there
    rows, limit = np.arange(len(p)), budget + policy.ROUNDING * least

    def within(lam: float) -> bool:
        return c[rows, policy.utility(p, c, lam)].mean() <= limit

    return float(lams[bisect_left(lams[:-1], True, key=within)])  # spending falls with lambda


def tied_lambdas(p: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the lambdas above 0 at which two targets have the same utility for some query.

    Parameters
    ----------
    p, c : (N, K) arrays
        Predicted P(correct), and cost of asking in USD.

    Returns
    -------
    (M,) array
        In no order, some repeated: what `policy.utility` chooses changes at no other lambda.
    """
    a, b = np.triu_indices(p.shape[1], k=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ties = ((p[:, a] - p[:, b]) / (c[:, a] - c[:, b])).ravel()
    return ties[np.isfinite(ties) & (ties > 0)]


def fit_abstention(p: np.ndarray, correct: np.ndarray, accuracy: float) -> float:
    """Return the least threshold at which the queries still answered are answered so accurately.

    Parameters
    ----------
    p, correct : (N, K) arrays
        Predicted P(correct) and labels of validation queries; incomplete rows are left out.
    accuracy : float
        Wanted share of right answers among the queries that `policy.abstain` does not leave out.

    Returns
    -------
    float
        Below every p where all may be answered.

    Raises
    ------
    InputError
        If no threshold reaches that accuracy, or it is not between 0 and 1.
    """
    if not 0 < accuracy < 1:
        raise InputError(f"accuracy is {accuracy}; it must be between 0 and 1.")
    rows, kept = Evaluation(correct).complete()
    p = np.asarray(p, dtype=np.float64)[rows]
    right = kept.correct[np.arange(len(p)), policy.argmax(p)]
    order = np.argsort(-p.max(axis=1), kind="stable")
    values = p.max(axis=1)[order]
    reached = np.cumsum(right[order]) / np.arange(1, len(p) + 1)
    last_of_ties = np.append(values[1:] < values[:-1] - policy.ROUNDING, True)
    enough = np.flatnonzero((reached >= accuracy - policy.ROUNDING) & last_of_ties)
    if len(enough) == 0:
        raise InputError(
            f"No threshold makes {100 * accuracy:g} % of the answers right; on validation queries "
            f"the most is {100 * reached[last_of_ties].max():.3g} %. Ask for less."
        )
    return float(values[enough[-1]]) if enough[-1] < len(p) - 1 else 0.0


def _utility_curve(p: np.ndarray, correct: np.ndarray, cost: np.ndarray) -> RoutingCurve:
    """Evaluate the utility policy at some lambdas, `tau`, at which its choices change."""
    ties = tied_lambdas(p, cost)
    grid = np.unique(np.quantile(ties, np.linspace(0, 1, LAMBDAS))) if len(ties) else []
    lams = np.concatenate([[0.0], grid])
    chosen = np.column_stack([policy.utility(p, cost, lam) for lam in lams])
    means = (np.take_along_axis(v, chosen, axis=1).mean(axis=0) for v in (cost, correct))
    return RoutingCurve(lams, *means)
