"""The figure that sums up a study or a router: accuracy against cost on labelled queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prefill_router import policy
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.curve_evaluation import curve_band
from prefill_router.evaluation.curves import routing_curve
from prefill_router.evaluation.estimates import as_results
from prefill_router.evaluation.results import one
from prefill_router.report.plotting import routing_curves


def trade_off(
    ax: Axes,
    p: Mapping[str, np.ndarray],
    correct: np.ndarray,
    cost: np.ndarray,
    expected_cost: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    estimates: pd.DataFrame,
    seed: int = 0,
) -> Axes:
    """Draw routers at every tolerance, the point of each that was chosen, targets and oracle.

    Parameters
    ----------
    ax : Axes
    p : mapping of router -> (N, K) array
        Predicted P(correct). The first router's curve has the interval of its accuracy as a band.
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    cost, expected_cost : (K,) or (N, K) arrays
        What asking cost, and what the policy looks at; USD a query.
    groups : (N,) array, optional
        Queries drawn together by the bootstrap.
    targets : sequence of str
        Names of the K targets.
    estimates : pandas.DataFrame
        "mean cost" and "accuracy" of each router's chosen policy, under the names in `p`.
    seed : int, default 0
        Of the bootstrap.

    Raises
    ------
    InputError
        If an estimate is missing, a cost unknown, or no row is complete.
    """
    estimates, kept = as_results(estimates), complete(correct, cost)
    right, paid, seen = kept.correct, kept.cost, kept.costs(expected_cost)
    rows, best = np.arange(len(right)), policy.oracle(right, paid)
    return routing_curves(
        ax,
        {name: routing_curve(values[kept.rows], right, paid, seen) for name, values in p.items()},
        targets,
        paid.mean(axis=0),
        right.mean(axis=0),
        oracle=(paid[rows, best].mean(), right[rows, best].mean()),
        chosen={
            name: tuple(
                one(estimates, metric=metric, router=name).estimate
                for metric in ("mean cost", "accuracy")
            )
            for name in p
        },
        band=curve_band(next(iter(p.values())), correct, cost, expected_cost, groups, seed=seed),
    )
