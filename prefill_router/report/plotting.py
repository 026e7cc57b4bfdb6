"""Figures: Axes in, Axes out. Shares are drawn in per cent.

Series differ in line style, marker or hatching as well as in colour, so that figures can be read in
grey and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from prefill_router.evaluation.sentences import Row
from prefill_router.metrics import ReliabilityCurve, Zones

MARKERS = "osD^vPX<>*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
INK = "0.25"
PALETTE = "colorblind"


def style() -> None:
    """Set the look of all figures; call it once, before the first.

    Text is never read as mathematics: names come from data, and a stray dollar sign would break
    the figure.
    """
    looks = {
        "figure.figsize": (7, 4.3),
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.labelsize": 11,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 9,
        "lines.linewidth": 1.8,
        "text.parse_math": False,
    }
    sns.set_theme("notebook", "whitegrid", PALETTE, rc=looks)


def colour(i: int) -> tuple[float, float, float]:
    """Return the colour of the i-th series, as (red, green, blue)."""
    palette = sns.color_palette(PALETTE)
    return palette[i % len(palette)]


def look_of(i: int) -> dict[str, object]:
    """Return the colour, line style and marker of the i-th series, as `Axes.plot` takes them."""
    marker, line = MARKERS[i % len(MARKERS)], LINES[i % len(LINES)]
    return {"color": colour(i), "linestyle": line, "marker": marker}


def legend_outside(ax: Axes, below: bool = False) -> None:
    """Put the legend where it covers no data: on the right, or below."""
    look = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)}
    if below:  # by so many font sizes, however high the axes are: ticks and label lie between
        look = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 5, "ncols": 3}
    ax.legend(**look, frameon=False)


def accuracy_and_headroom(ax: Axes, targets: Mapping[str, Row], oracle: Row, best: str) -> Axes:
    """Draw every target's accuracy, the oracle's, and the headroom between it and `best`."""
    names, shown = [*targets, "oracle"], pd.DataFrame([*targets.values(), oracle])
    values, lower, upper = (100 * shown[name].to_numpy() for name in ("estimate", "lower", "upper"))
    errors = np.maximum([values - lower, upper - values], 0)
    colours = [colour(0)] * len(targets) + [colour(1)]
    bars = ax.barh(names, values, color=colours, xerr=errors, ecolor=INK, capsize=3)
    bars[-1].set_hatch("//")
    low, high = values[names.index(best)], values[-1]
    headroom = f"headroom {high - low:.1f} points"
    ax.axvspan(low, high, color=colour(1), alpha=0.2, zorder=0, label=headroom)
    ax.axvline(low, color=INK, linestyle="--", label=f"best single target: {best}")
    return _bars(ax, xlabel="accuracy (%)", ylabel="target")


def zones(ax: Axes, shares: Mapping[str, Zones]) -> Axes:
    """Draw the agreement zones of one or more sets of queries as stacked bars."""
    left = np.zeros(len(shares))
    hatches = {"all_right": "", "some_right": "//", "all_wrong": ".."}
    for i, (field, hatch) in enumerate(hatches.items()):
        width = np.array([100 * getattr(share, field) for share in shares.values()])
        look = {"color": colour(i), "hatch": hatch, "edgecolor": "white"}
        ax.barh(list(shares), width, left=left, label=field.replace("_", " "), **look)
        left += width
    return _bars(ax, xlabel="queries (%)", ylabel="")


def _bars(ax: Axes, **labels: str) -> Axes:
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlim=(0, 100), **labels)
    legend_outside(ax, below=True)
    return ax


def agreement_matrix(ax: Axes, agreement: np.ndarray, targets: Sequence[str]) -> Axes:
    """Draw the share of queries on which two targets are both right or both wrong, (K, K)."""
    frame = pd.DataFrame(100 * np.asarray(agreement), index=targets, columns=targets)
    _heatmap(ax, frame, "queries answered alike (%)", fmt=".0f", square=True)
    ax.set(xlabel="target", ylabel="target")
    return ax


def encoder_target_heatmap(ax: Axes, matrix: pd.DataFrame, label: str) -> Axes:
    """Draw a value by encoder (rows) and target (columns); each target's best is framed."""
    _heatmap(ax, matrix, label, fmt=".3f")
    for column in np.flatnonzero(matrix.notna().any()):
        place = column, np.nanargmax(matrix.iloc[:, column].to_numpy(dtype=float))
        ax.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="crimson", linewidth=2.5))
    ax.set(xlabel="target (the best encoder for each is framed)", ylabel="encoder")
    return ax


def _heatmap(ax: Axes, frame: pd.DataFrame, label: str, **looks: Any) -> None:
    sns.heatmap(frame, ax=ax, annot=True, cmap="cividis", cbar_kws={"label": label}, **looks)
    # turned, so that long names do not overlap
    ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=30, ha="right")
    ax.set_yticks(ax.get_yticks(), ax.get_yticklabels(), rotation=0)


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


def training_curves(
    ax: Axes,
    train: Sequence[Sequence[float]],
    validation: Sequence[Sequence[float]],
    kept: Sequence[int],
) -> Axes:
    """Draw loss by epoch, one line per seed; seeds that are not `kept` are pale."""
    for i, (name, losses) in enumerate({"training": train, "validation": validation}.items()):
        for seed, loss in enumerate(losses):
            look = {"color": colour(i), "linestyle": LINES[i], "linewidth": 1.2}
            look |= {"alpha": 0.9 if seed in kept else 0.25}
            label = name if seed == kept[0] else None
            ax.plot(range(1, len(loss) + 1), loss, label=label, **look)
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
    rows: pd.DataFrame,
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
    rows : pandas.DataFrame
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
    scale = 100 if percent else 1
    places, lines = pd.factorize(rows[by])
    number, names = pd.factorize(rows[series] if series else np.zeros(len(rows)))
    for i, name in enumerate(names):
        here, shift = rows[number == i], 0.7 * ((i + 0.5) / len(names) - 0.5)
        place = places[number == i] + shift
        # bounds, not errors: a centred interval may lie on one side of its estimate
        ax.hlines(
            place, scale * here["lower"], scale * here["upper"], color=colour(i), linewidth=1.3
        )
        look = {"marker": MARKERS[i % len(MARKERS)], "color": colour(i), "s": 26, "zorder": 3}
        ax.scatter(scale * here["estimate"], place, label=str(name), **look)
    if reference is not None:
        ax.axvline(scale * reference, color=INK, linestyle="--", linewidth=1.2)
    ax.set_yticks(np.arange(len(lines)), lines)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.set(xlabel=f"{label}, 95 % interval", ylabel="" if series else by)
    if series:
        legend_outside(ax)
    return ax


def trend(
    ax: Axes,
    rows: pd.DataFrame,
    xlabel: str,
    ylabel: str,
    percent: bool = False,
    log: bool = True,
    level: Row | None = None,
    line: str = "router",
) -> Axes:
    """Draw estimates with intervals against `x`, one line for each value of a column.

    Parameters
    ----------
    ax : Axes
    rows : pandas.DataFrame
        Results. A line of one point is drawn as a marker alone.
    xlabel, ylabel : str
    percent : bool, default False
        Whether estimates are shares to be shown in per cent.
    log : bool, default True
        Whether the axis of x is logarithmic; 0 then has a place of its own, on its left.
    level : row of results, optional
        Drawn as a line across, with its interval as a band.
    line : str, default "router"
        The column that names the lines.
    """
    scale, numbers = 100 if percent else 1, np.unique(rows["x"])
    names = rows[line].unique()
    for i, name in enumerate(names):
        here, look = rows[rows[line] == name].sort_values("x"), look_of(i)
        # Markers stand side by side where several names share a number.
        shift = 1 + 0.04 * (i - (len(names) - 1) / 2) if log and len(numbers) > 1 else 1
        places = here["x"] * shift
        look |= {"linestyle": "none"} if len(here) == 1 else {}
        ax.plot(places, scale * here["estimate"], label=str(name), **look)
        bounds = scale * here["lower"], scale * here["upper"]
        ax.vlines(places, *bounds, color=look["color"], linewidth=1)
    if level is not None:
        ax.axhline(scale * level.estimate, color=INK, linestyle="--", label=level.router)
        ax.axhspan(scale * level.lower, scale * level.upper, color=INK, alpha=0.08, linewidth=0)
    if log:
        positive = numbers[numbers > 0]
        from_zero = numbers[0] == 0 and len(positive)
        about = {"linthresh": positive[0], "linscale": 0.5} if from_zero else {}
        ax.set_xscale("symlog" if from_zero else "log", **about)
        ax.set_xticks(numbers if len(numbers) <= 6 else numbers[[0, -1]])
        ax.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=f"{ylabel}, 95 % interval")
    legend_outside(ax)
    return ax
