"""Figures: Axes in, Axes out. Shares are drawn in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from prefill_router.evaluation.sentences import Row
from prefill_router.metrics import ReliabilityCurve, Zones
from prefill_router.report.style import (
    HATCHES,
    INK,
    LINES,
    MARKERS,
    Rows,
    as_frame,
    colour,
    legend_outside,
    look_of,
    tilt,
)


def accuracy_and_headroom(ax: Axes, targets: Mapping[str, Row], oracle: Row, best: str) -> Axes:
    """Draw every target's accuracy, the oracle's, and the headroom between it and `best`."""
    names, shown = [*targets, "oracle"], as_frame([*targets.values(), oracle])
    values, lower, upper = (100 * shown[name].to_numpy() for name in ("estimate", "lower", "upper"))
    errors = np.maximum([values - lower, upper - values], 0)
    colours = [colour(0)] * len(targets) + [colour(1)]
    bars = ax.barh(names, values, color=colours, xerr=errors, ecolor=INK, capsize=3)
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


def forest(
    ax: Axes,
    rows: Rows,
    label: str,
    percent: bool = True,
    reference: float | None = 0,
    by: str = "router",
    series: str | None = None,
) -> Axes:
    """Draw estimates with their intervals, one line for each value of a column.

    Parameters
    ----------
    ax : Axes
    rows : pandas.DataFrame or sequence of rows
        Results.
    label : str
        What is estimated.
    percent : bool, default True
        Whether estimates are shares to be shown in per cent.
    reference : float, optional, default 0
        Where a line is drawn across.
    by : str, default "router"
        The column that names the lines, from the top.
    series : str, optional
        A column whose values differ in colour and marker and lie side by side in a line.
    """
    frame, scale = as_frame(rows), 100 if percent else 1
    lines = frame[by].drop_duplicates().tolist()
    names = [""] if series is None else frame[series].drop_duplicates().tolist()
    for i, name in enumerate(names):
        here = frame if series is None else frame[frame[series] == name]
        shift = 0.7 * ((i + 0.5) / len(names) - 0.5)
        place = np.array([lines.index(line) for line in here[by]]) + shift
        # bounds, not errors: a centred interval may lie on one side of its estimate
        bounds = scale * here["lower"], scale * here["upper"]
        ax.hlines(place, *bounds, color=colour(i), linewidth=1.3)
        look = {"marker": MARKERS[i % len(MARKERS)], "color": colour(i), "s": 26, "zorder": 3}
        ax.scatter(scale * here["estimate"], place, label=str(name), **look)
    if reference is not None:
        ax.axvline(scale * reference, color=INK, linestyle="--", linewidth=1.2)
    ax.set_yticks(np.arange(len(lines)), lines)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.set(xlabel=f"{label}, 95 % interval", ylabel=by if series is None else "")
    if series is not None:
        legend_outside(ax)
    return ax


def trend(
    ax: Axes,
    rows: Rows,
    xlabel: str,
    ylabel: str,
    percent: bool = False,
    log: bool = True,
    level: Row | None = None,
    line: str = "router",
    x: str = "x",
) -> Axes:
    """Draw estimates with intervals against a number, one line for each value of a column.

    Parameters
    ----------
    ax : Axes
    rows : pandas.DataFrame or sequence of rows
        Results. A line of one point is drawn as a marker alone.
    xlabel, ylabel : str
    percent : bool, default False
        Whether estimates are shares to be shown in per cent.
    log : bool, default True
        Whether the number's axis is logarithmic; 0 then has a place of its own, on its left.
    level : row of results, optional
        Drawn as a line across, with its interval as a band.
    line, x : str, default "router" and "x"
        The columns that name the lines, and that hold the number.
    """
    frame, scale = as_frame(rows), 100 if percent else 1
    numbers = np.unique(frame[x].astype(float))
    names = frame[line].drop_duplicates()
    for i, name in enumerate(names):
        here = frame[frame[line] == name].sort_values(x)
        # Markers stand side by side where several names share a number.
        shift = 1 + 0.04 * (i - (len(names) - 1) / 2) if log and len(numbers) > 1 else 1
        places = here[x].astype(float) * shift
        look = look_of(i) if len(here) > 1 else look_of(i) | {"linestyle": "none"}
        ax.plot(places, scale * here["estimate"], label=str(name), **look)
        bounds = scale * here["lower"], scale * here["upper"]
        ax.vlines(places, *bounds, color=look["color"], linewidth=1)
    if level is not None:
        ax.axhline(scale * level.estimate, color=INK, linestyle="--", label=level.router)
        ax.axhspan(scale * level.lower, scale * level.upper, color=INK, alpha=0.08, linewidth=0)
    if log:
        positive = numbers[numbers > 0]
        if numbers.min() == 0 and len(positive):
            ax.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
        else:
            ax.set_xscale("log")
        ax.set_xticks(numbers if len(numbers) <= 6 else [numbers.min(), numbers.max()])
        ax.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=f"{ylabel}, 95 % interval")
    legend_outside(ax)
    return ax
