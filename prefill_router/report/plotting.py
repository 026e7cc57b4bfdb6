"""Figures: Axes in, Axes out.

Shares are drawn in per cent, costs in USD per 1,000 queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from prefill_router.evaluation.bootstrap import Interval
from prefill_router.evaluation.curves import RoutingCurve, pareto_frontier
from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.metrics import ReliabilityCurve, Zones
from prefill_router.report import QUERIES
from prefill_router.report.style import (
    HATCHES,
    INK,
    LINES,
    MARKERS,
    colour,
    errors_of,
    legend_outside,
    look_of,
    tilt,
)

CHOSEN = "chosen on validation"


def accuracy_and_headroom(
    ax: Axes, targets: Mapping[str, Interval | Estimate], oracle: Interval | Estimate, best: str
) -> Axes:
    """Draw every target's accuracy, the oracle's, and the headroom between it and `best`."""
    names = [*targets, "oracle"]
    shown = [*targets.values(), oracle]
    values = np.array([100 * interval.estimate for interval in shown])
    colours = [colour(0)] * len(targets) + [colour(1)]
    bars = ax.barh(names, values, color=colours, xerr=errors_of(shown, 100), ecolor=INK, capsize=3)
    bars[-1].set_hatch("//")
    low, high = values[names.index(best)], values[-1]
    headroom = f"headroom {high - low:.1f} points"
    ax.axvspan(low, high, color=colour(1), alpha=0.2, zorder=0, label=headroom)
    ax.axvline(low, color=INK, linestyle="--", label=f"best single target: {best}")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlabel="accuracy (%)", ylabel="target", xlim=(0, 100))
    legend_outside(ax, below=True)
    return ax


def agreement_matrix(ax: Axes, agreement: np.ndarray, targets: Sequence[str]) -> Axes:
    """Draw the share of queries on which two targets are both right or both wrong, (K, K)."""
    frame = pd.DataFrame(100 * np.asarray(agreement), index=targets, columns=targets)
    bar = {"label": "queries answered alike (%)"}
    sns.heatmap(frame, ax=ax, annot=True, fmt=".0f", cmap="cividis", cbar_kws=bar, square=True)
    ax.set(xlabel="target", ylabel="target")
    tilt(ax)
    return ax


def zones(ax: Axes, shares: Mapping[str, Zones]) -> Axes:
    """Draw the agreement zones of one or more sets of queries as stacked bars."""
    left = np.zeros(len(shares))
    parts = {"all right": "all_right", "some right": "some_right", "all wrong": "all_wrong"}
    for i, (label, field) in enumerate(parts.items()):
        width = np.array([100 * getattr(share, field) for share in shares.values()])
        look = {"color": colour(i), "hatch": HATCHES[i], "edgecolor": "white"}
        ax.barh(list(shares), width, left=left, label=label, **look)
        left += width
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlabel="queries (%)", ylabel="", xlim=(0, 100))
    legend_outside(ax, below=True)
    return ax


def layer_profile(ax: Axes, frame: pd.DataFrame, value: str, line: str, ylabel: str) -> Axes:
    """Draw `value` by layer, one line for each value of the column `line`.

    Parameters
    ----------
    ax : Axes
    frame : pandas.DataFrame
        Columns "layer", `value` and `line`; where it has "lower" and "upper" they become a band.
    value, line : str
        Columns.
    ylabel : str
        What `value` is, with its unit.
    """
    for i, (name, rows) in enumerate(frame.groupby(line, sort=False)):
        rows = rows.sort_values("layer")
        ax.plot(rows["layer"], rows[value], label=str(name), **look_of(i))
        if {"lower", "upper"} <= set(rows):
            band = (rows["layer"], rows["lower"], rows["upper"])
            ax.fill_between(*band, color=colour(i), alpha=0.15, linewidth=0)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.set(xlabel="layer (0 is the embedding)", ylabel=ylabel)
    ax.legend(title=line)
    return ax


def encoder_target_heatmap(ax: Axes, matrix: pd.DataFrame, label: str) -> Axes:
    """Draw a value by encoder (rows) and target (columns); each target's best is framed."""
    sns.heatmap(matrix, ax=ax, annot=True, fmt=".3f", cmap="cividis", cbar_kws={"label": label})
    for column, (_, values) in enumerate(matrix.items()):
        if values.notna().any():
            place = (column, int(np.nanargmax(values.to_numpy(dtype=float))))
            ax.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="crimson", linewidth=2.5))
    ax.set(xlabel="target (the best encoder for each is framed)", ylabel="encoder")
    tilt(ax)
    return ax


def training_curves(
    ax: Axes,
    train: Sequence[Sequence[float]],
    validation: Sequence[Sequence[float]],
    kept: Sequence[int] | None = None,
) -> Axes:
    """Draw loss by epoch, one line a seed; seeds that are not `kept` are pale."""
    kept = list(range(len(train)) if kept is None else kept)
    for i, (label, losses) in enumerate((("training", train), ("validation", validation))):
        for seed, loss in enumerate(losses):
            strength = 0.9 if seed in kept else 0.25
            epochs = np.arange(1, len(loss) + 1)
            look = {"color": colour(i), "linestyle": LINES[i], "linewidth": 1.2}
            ax.plot(epochs, loss, label=label if seed == kept[0] else None, alpha=strength, **look)
    ax.set(xlabel="epoch", ylabel="binary cross-entropy (nats)")
    ax.legend()
    return ax


def reliability(ax: Axes, routers: Mapping[str, ReliabilityCurve]) -> Axes:
    """Draw the share of right answers against the predicted probability."""
    ax.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1.2, label="perfect calibration")
    for i, (name, curve) in enumerate(routers.items()):
        ax.plot(curve.predicted, curve.observed, label=name, **look_of(i))
    ax.set(xlabel="predicted P(correct)", ylabel="share answered correctly")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    legend_outside(ax)
    return ax


def routing_curves(
    ax: Axes,
    routers: Mapping[str, RoutingCurve],
    targets: Sequence[str],
    target_cost: np.ndarray,
    target_accuracy: np.ndarray,
    oracle: tuple[float, float] | None = None,
    chosen: Mapping[str, tuple[float, float]] | None = None,
    band: pd.DataFrame | None = None,
) -> Axes:
    """Draw accuracy against mean cost for routers, single targets and the oracle.

    Parameters
    ----------
    ax : Axes
    routers : mapping of name -> RoutingCurve
    targets : (K,) sequence of str
    target_cost, target_accuracy : (K,) arrays
        Mean cost, USD a query, and accuracy of each target alone; joined by their Pareto frontier.
    oracle : (cost, accuracy), optional
        Of the cheapest right target.
    chosen : mapping of router -> (cost, accuracy), optional
        The point of the policy that was chosen on validation, drawn as a star.
    band : pandas.DataFrame, optional
        Columns cost, lower and upper: the interval around the first router; see `curve_band`.
    """
    target_cost, target_accuracy = np.asarray(target_cost), np.asarray(target_accuracy)
    for i, (name, curve) in enumerate(routers.items()):
        look = look_of(i) | {"markersize": 4, "markevery": max(1, len(curve.tau) // 8)}
        ax.plot(QUERIES * curve.cost, 100 * curve.accuracy, label=name, **look)
        if chosen and name in chosen:
            cost, accuracy = chosen[name]
            look = {"marker": "*", "s": 170, "color": colour(i), "edgecolor": "black", "zorder": 4}
            ax.scatter(QUERIES * cost, 100 * accuracy, **look)
    if band is not None:
        edges = (QUERIES * band["cost"], 100 * band["lower"], 100 * band["upper"])
        ax.fill_between(*edges, color=colour(0), alpha=0.15, linewidth=0, label="95 % interval")
    front = pareto_frontier(target_cost, target_accuracy)
    points = (QUERIES * target_cost[front], 100 * target_accuracy[front])
    ax.plot(*points, color=INK, linestyle=":", linewidth=1.2, label="frontier of single targets")
    for k, name in enumerate(targets):
        look = {"marker": MARKERS[k % len(MARKERS)], "color": "white", "edgecolor": INK}
        point = (QUERIES * target_cost[k], 100 * target_accuracy[k])
        ax.scatter(*point, s=50, zorder=3, label=name, **look)
    if oracle is not None:
        point = (QUERIES * oracle[0], 100 * oracle[1])
        ax.scatter(*point, marker="p", s=110, color="black", zorder=4, label="oracle")
    if chosen:
        ax.scatter([], [], marker="*", s=170, color="white", edgecolor="black", label=CHOSEN)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    ax.set(xlabel=f"mean cost (USD per {QUERIES:,} queries)", ylabel="accuracy (%)")
    legend_outside(ax)
    return ax


def forest(
    ax: Axes, estimates: Sequence[Estimate], label: str, percent: bool = True, reference: float = 0
) -> Axes:
    """Draw one row a router: its estimate, its interval, and a line at `reference`."""
    scale = 100 if percent else 1
    place = np.arange(len(estimates))
    values = [scale * estimate.estimate for estimate in estimates]
    errors = errors_of(estimates, scale)
    ax.errorbar(values, place, xerr=errors, fmt="o", color=colour(0), ecolor=INK, capsize=4)
    ax.axvline(scale * reference, color=INK, linestyle="--", linewidth=1.2)
    ax.set_yticks(place, [f"{estimate.router} {estimate.target}".strip() for estimate in estimates])
    ax.set_ylim(len(estimates) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.set(xlabel=f"{label}, 95 % interval", ylabel="router")
    return ax


def savings(ax: Axes, rows: Sequence[Estimate]) -> Axes:
    """Draw savings as bars with intervals, grouped by router, one hatching a metric."""
    routers = list(dict.fromkeys(row.router for row in rows))
    metrics = list(dict.fromkeys(row.metric for row in rows))
    height = 0.8 / max(len(metrics), 1)
    for i, metric in enumerate(metrics):
        shown = [row for row in rows if row.metric == metric]
        place = [routers.index(row.router) + (i - (len(metrics) - 1) / 2) * height for row in shown]
        values = [100 * row.estimate for row in shown]
        look = {"color": colour(i), "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "white"}
        errors = {"xerr": errors_of(shown, 100), "ecolor": INK, "capsize": 3}
        ax.barh(place, values, height, label=metric, **look, **errors)
    ax.axvline(0, color=INK, linewidth=1.2)
    ax.set_yticks(range(len(routers)), routers)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlabel="saving (%), 95 % interval", ylabel="policy")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, frameon=False)
    return ax


def price_spread(ax: Axes, saving: Mapping[float, Estimate]) -> Axes:
    """Draw a router's cost saving against the exponent that all prices were raised to."""
    values = [100 * estimate.estimate for estimate in saving.values()]
    errors = errors_of(list(saving.values()), 100)
    ax.errorbar(list(saving), values, errors, fmt="o-", color=colour(0), ecolor=INK, capsize=4)
    ax.set(xlabel="exponent applied to every price", ylabel="cost saving (%), 95 % interval")
    return ax
