"""The figure that sums up a study or a router: accuracy against cost on labelled queries."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prefill_router import policy
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.curves import pareto_frontier, routing_curve
from prefill_router.evaluation.results import one
from prefill_router.evaluation.sentences import QUERIES
from prefill_router.report.plotting import INK, MARKERS, colour, legend_outside, look_of


def trade_off(
    ax: Axes,
    at: Evaluation,
    p: Mapping[str, np.ndarray],
    expected_cost: np.ndarray,
    estimates: pd.DataFrame,
) -> Axes:
    """Draw routers at every tolerance, the point of each that was chosen, targets and oracle.

    Parameters
    ----------
    ax : Axes
    at : Evaluation
        The N queries and their costs; incomplete rows are left out.
    p : mapping of router -> (N, K) array
        Predicted P(correct). The first router's curve has the interval of its accuracy as a band.
    expected_cost : (N, K) array
        What the policy looks at; USD a query.
    estimates : pandas.DataFrame
        "mean cost" and "accuracy" of each router's chosen policy, under the names in `p`.

    Raises
    ------
    InputError
        If an estimate is missing, a cost unknown, or no row is complete.
    """
    rows, kept = at.complete()
    right, paid = kept.correct, kept.cost

    def shown(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
        return np.array([QUERIES * np.asarray(cost), 100 * np.asarray(accuracy)])

    for i, (name, values) in enumerate(p.items()):
        curve = routing_curve(values[rows], right, paid, expected_cost[rows])
        look = look_of(i) | {"markersize": 4, "markevery": max(1, len(curve.tau) // 8)}
        ax.plot(*shown(*curve.points), label=name, **look)
        chosen = [one(estimates, metric=m, router=name).estimate for m in ("mean cost", "accuracy")]
        look = {"color": colour(i), "edgecolor": "black", "zorder": 4}
        ax.scatter(*shown(*chosen), marker="*", s=170, **look)
    band = at.band(next(iter(p.values())), expected_cost)
    edges = *shown(band["x"], band["lower"]), 100 * band["upper"]
    ax.fill_between(*edges, color=colour(0), alpha=0.15, linewidth=0, label="95 % interval")

    single = shown(paid.mean(axis=0), right.mean(axis=0))
    front, look = pareto_frontier(*single), {"color": INK, "linestyle": ":", "linewidth": 1.2}
    ax.plot(*single[:, front], label="frontier of single targets", **look)
    for k, name in enumerate(at.targets):
        look = {"color": "white", "edgecolor": INK, "s": 50, "zorder": 3}
        ax.scatter(*single[:, k], marker=MARKERS[k % len(MARKERS)], label=name, **look)
    cells = np.arange(len(right)), policy.oracle(right, paid)
    oracle = shown(paid[cells].mean(), right[cells].mean())
    ax.scatter(*oracle, marker="p", s=110, color="black", zorder=4, label="oracle")
    ax.scatter(
        [], [], marker="*", s=170, color="white", edgecolor="black", label="chosen on validation"
    )
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    ax.set(xlabel=f"mean cost (USD per {QUERIES:,} queries)", ylabel="accuracy (%)")
    legend_outside(ax)
    return ax
