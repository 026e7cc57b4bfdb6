"""Is it worth predicting each answer's length? Savings at equal accuracy, by what is expected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.bootstrap import Values
from prefill_router.evaluation.comparison import BEST, ENCODER_INCLUDED, Evaluation, differences
from prefill_router.evaluation.tuning import tied_lambdas
from prefill_router.metrics import cost_saving, ratio

PREDICTED, TRUE = "predicted lengths", "true lengths"
MEDIAN, MEAN = "median lengths", "mean lengths"
"""The same for every query: as the paper expects, and what a prediction that knows nothing is."""
SAVING = "saving at equal accuracy"
ERROR = "error of the expected cost"
RULES = ("tolerance", "utility")
RESAMPLES = 1000  # at most
POINTS = 256  # tolerances, and lambdas, at which a curve is looked at


def compare_costs(
    at: Evaluation,
    p: np.ndarray,
    expected: Mapping[str, np.ndarray],
    encoder_cost: np.ndarray | None = None,
) -> pd.DataFrame:
    """Compare what routing saves by different expectations of what answers will cost.

    Parameters
    ----------
    at : Evaluation
        Of N queries, with their costs; incomplete rows are left out.
    p : ndarray of shape (N, K)
        Predicted P(correct).
    expected : mapping of str to ndarray of shape (N, K)
        Expected costs by how they were found. The first is compared with every other.
    encoder_cost : ndarray of shape (N,), optional
        What the encoder's prefill costs, in USD: only routing pays it. Default: unknown, and then
        no saving includes it.

    Returns
    -------
    pandas.DataFrame
        Results. Of router ``"tolerance, WAY"`` and ``"utility, WAY"`` the `SAVING` against the best
        single target at the cheapest setting that is as accurate on these queries, and the first
        way's difference from each other (`versus`); the same with `ENCODER_INCLUDED`. Of each way
        and target the root mean squared `ERROR`, as a share of its mean cost, and its difference.

    Notes
    -----
    The setting is found anew in every resample, on the queries it is reported on: this says what
    the curves hold. Resamples in which a curve is nowhere as accurate are left out.
    """
    rows, kept = at.complete()
    right, cost = kept.correct, kept.cost
    seen = {way: np.asarray(values)[rows] for way, values in expected.items()}
    single = np.broadcast_to(kept.best_single, len(right))[:, None]
    read = np.zeros(len(right)) if encoder_cost is None else np.asarray(encoder_cost)[rows]
    chosen = {
        f"{name}, {way}": _choices(name, np.asarray(p, dtype=np.float64)[rows], values)
        for name in RULES
        for way, values in seen.items()
    } | {BEST: single}
    columns = {("right", name): np.take_along_axis(right, k, axis=1) for name, k in chosen.items()}
    columns |= {("cost", name): np.take_along_axis(cost, k, axis=1) for name, k in chosen.items()}
    columns["encoder"] = read[:, None]

    def saving(m: Values, name: str, included: bool = False) -> np.ndarray:
        enough = m["right", name] >= m["right", BEST] - policy.ROUNDING
        least = np.where(enough, m["cost", name], np.inf).min(axis=1, keepdims=True)
        least[np.isinf(least)] = np.nan
        return cost_saving(least + included * m["encoder"], m["cost", BEST])[:, 0]

    first, *others = seen
    names = [name for name in chosen if name != BEST]
    pairs = [(f"{rule}, {first}", f"{rule}, {way}") for rule in RULES for way in others]
    quantities = differences({SAVING: saving}, names, pairs)
    if encoder_cost is not None:
        included = {SAVING + ENCODER_INCLUDED: lambda m, a: saving(m, a, True)}
        quantities |= differences(included, names)
    found = [kept.estimate(columns, quantities, RESAMPLES, centred=True)]
    ways = [way for way, values in seen.items() if not np.array_equal(values, cost)]
    if ways:
        errors = {way: (seen[way] - cost) ** 2 for way in ways} | {"cost": cost}
        share = {ERROR: lambda m, a: ratio(np.sqrt(m[a]), m["cost"])}
        pairs = [(ways[0], way) for way in ways[1:]]
        quantities = differences(share, ways, pairs, at.targets)
        found.append(kept.estimate(errors, quantities, RESAMPLES))
    return pd.concat(found, ignore_index=True)


def _choices(name: str, p: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return what a policy chooses at settings over its whole range, (N, T)."""
    if name == "tolerance":
        settings = np.quantile(policy.gaps(p), np.linspace(0, 1, POINTS))
        choose = policy.tolerance
    else:
        ties = tied_lambdas(p, cost)
        settings = (
            np.r_[0.0, np.quantile(ties, np.linspace(0, 1, POINTS - 1))] if len(ties) else [0]
        )
        choose = policy.utility
    return np.column_stack([choose(p, cost, setting) for setting in np.unique(settings)])
