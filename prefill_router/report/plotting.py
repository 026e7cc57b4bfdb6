"""Figures: Axes in, Axes out. Shares are drawn in per cent.

Series differ in line style, marker or hatching as well as in colour, so that figures can be read in
grey and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from prefill_router import policy
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.curves import pareto_frontier, routing_curve
from prefill_router.evaluation.results import one
from prefill_router.evaluation.sentences import QUERIES, Row
from prefill_router.metrics import ReliabilityCurve, Zones

MARKERS = "osD^vPX<>*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
INK = "0.25"
PALETTE = "colorblind"
DIRECT = 5
"""Up to so many lines are named at their ends."""
WIDTH = 8
"""Inches: as wide as a page's text, where a point of a figure is a point of the page."""
ROUTERS = {
    "SharedTrunkNet": 0,
    "TF-IDF + logistic": 1,
    "k-means clusters, embedding": 2,
    "SharedTrunkNet, untrained encoder": 7,
    "benchmark-aware": 3,
    "logistic per target, same features": 4,
    "ridge": 5,
    "logistic": 9,
}
"""Routers that the book draws again and again, and their place in the palette."""
_targets: dict[str, int] = {}


def style(targets: Sequence[str] = ()) -> None:
    """Set the look of all figures; call it once, before the first.

    Text is never read as mathematics: names come from data, and a stray dollar sign would break
    the figure.

    Parameters
    ----------
    targets : sequence of str, optional
        Each of them has a colour of its own in all figures that follow.
    """
    looks = {
        "figure.figsize": (WIDTH, 4.4),
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.labelsize": 10.5,
        "axes.titlesize": 10.5,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 10,
        "legend.title_fontsize": 10,
        "lines.linewidth": 1.8,
        "text.parse_math": False,
    }
    sns.set_theme("notebook", "whitegrid", PALETTE, rc=looks)
    _targets.clear()
    _targets.update({name: k for k, name in enumerate(targets)})


def look_of(name: str, i: int) -> dict[str, object]:
    """Return the colour, line style and marker of a series, as `Axes.plot` takes them.

    A target that `style` was told of and each of `ROUTERS` look the same in every figure; any
    other name looks as the figure's i-th.
    """
    k = _targets.get(name, ROUTERS.get(name, i))
    marker, line = MARKERS[k % len(MARKERS)], LINES[k % len(LINES)]
    palette = sns.color_palette("Dark2" if name in _targets else PALETTE)
    return {"color": palette[k % len(palette)], "linestyle": line, "marker": marker}


def short(name: object) -> str:
    """Return a name that fits beside an axis: without its owner or path, 28 characters at most."""
    last = str(name).rstrip("/").rpartition("/")[2]
    return last if len(last) <= 28 else f"{last[:13]}…{last[-14:]}"


def name_lines(ax: Axes, title: str = "") -> None:
    """Name each line: up to five at their right ends, more of them in a legend below.

    Parameters
    ----------
    ax : Axes
        Its limits are final: names that would overlap are moved apart.
    title : str, default ""
        Of the legend.
    """
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    if len(lines) > DIRECT or any(len(line.get_label()) > 40 for line in lines):
        return legend_below(ax, ncols=2, title=title)
    ax.autoscale_view()
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = [to_axes.transform((line.get_xdata()[-1], line.get_ydata()[-1]))[1] for line in lines]
    n_rows = spec.get_gridspec().nrows if (spec := ax.get_subplotspec()) else 1
    gap, floor = 0.055 * 4.4 * n_rows / ax.figure.get_figheight(), -np.inf
    for i in np.argsort(ends):
        floor = max(floor + gap, ends[i])
        look = {"color": lines[i].get_color(), "va": "center", "fontsize": 10}
        ax.text(1.015, floor, lines[i].get_label(), transform=ax.transAxes, **look)


def legend_below(ax: Axes, **looks: Any) -> None:
    """Put the legend where it covers no data, below ticks and label."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4.5, "ncols": 3}
    ax.legend(**place | looks, frameon=False)


def accuracy_and_headroom(ax: Axes, targets: Mapping[str, Row], oracle: Row, best: str) -> Axes:
    """Draw every target's accuracy, the oracle's, and the headroom between it and `best`."""
    names, rows = [*targets, "oracle"], pd.DataFrame([*targets.values(), oracle])
    values, lower, upper = (100 * rows[name].to_numpy() for name in ("estimate", "lower", "upper"))
    errors = np.maximum([values - lower, upper - values], 0)
    colours = [look_of(name, k)["color"] for k, name in enumerate(targets)]
    look = {"color": [*colours, INK], "ecolor": INK, "capsize": 3}
    bars = ax.barh(np.arange(len(names)), values, xerr=errors, **look)
    ax.set_yticks(np.arange(len(names)), list(map(short, names)))
    bars[-1].set_hatch("//")
    low, high = values[names.index(best)], values[-1]
    headroom = f"headroom {high - low:.1f} points"
    ax.axvspan(low, high, color=INK, alpha=0.15, zorder=0, linewidth=0, label=headroom)
    ax.axvline(low, color=INK, linestyle="--", label=f"best single target: {short(best)}")
    return _bars(ax, xlabel="accuracy (%)", ylabel="target")


def zones(ax: Axes, shares: Mapping[str, Zones]) -> Axes:
    """Draw the agreement zones of one or more sets of queries as stacked bars."""
    left = np.zeros(len(shares))
    looks = {"all_right": ("C0", ""), "some_right": ("C1", "//"), "all_wrong": ("0.75", "")}
    for field, (fill, hatch) in looks.items():
        width = np.array([100 * getattr(share, field) for share in shares.values()])
        look = {"color": fill, "hatch": hatch, "edgecolor": "white"}
        ax.barh(list(shares), width, left=left, label=field.replace("_", " "), **look)
        left += width
    return _bars(ax, xlabel="queries (%)", ylabel="")


def _bars(ax: Axes, **labels: str) -> Axes:
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlim=(0, 100), **labels)
    legend_below(ax)
    return ax


def answer_patterns(
    ax: Axes, right: np.ndarray, targets: Sequence[str], best: int | np.ndarray
) -> Axes:
    """Draw which target answers which query: a line per target, filled where it is right.

    Queries lie from left to right: those that all targets answer; others that the best single
    target answers; those that it misses and another answers, which are the headroom; and those
    that no target answers.

    Parameters
    ----------
    ax : Axes
    right : (n, K) array
        Labels, none missing.
    targets : sequence of str
    best : int or (n,) int array
        The best single target.
    """
    right = np.asarray(right, dtype=bool)
    best_right = right[np.arange(len(right)), best]
    zones = [right.all(axis=1), best_right, right.any(axis=1)]
    lines = np.argsort(-right.mean(axis=0), kind="stable")
    order = np.lexsort([*right[:, lines[::-1]].T, zones[1], zones[2], zones[0]])[::-1]
    colours = np.array([look_of(targets[k], k)["color"] for k in lines])
    pixels = np.where(right[np.ix_(order, lines)].T[:, :, None], colours[:, None], 0.93)
    extent = (0, 100, len(lines) - 0.5, -0.5)
    ax.imshow(pixels, aspect="auto", interpolation="nearest", extent=extent)
    ax.hlines(np.arange(1, len(lines)) - 0.5, 0, 100, color="white", linewidth=4)
    ends = [0.0, *(100 * zone.mean() for zone in zones), 100.0]
    names = ("all right", "best single right", "headroom", "all wrong")
    for (start, end), name in zip(pairwise(ends), names, strict=True):
        ax.axvline(end, color=INK, linestyle="--", linewidth=1.2)
        if end - start > 5:
            text = f"{name}\n{end - start:.0f} %"
            ax.text((start + end) / 2, -0.6, text, ha="center", va="bottom", fontsize=10)
    shares = 100 * right.mean(axis=0)
    ax.set_yticks(
        np.arange(len(lines)), [f"{short(targets[k])}: {shares[k]:.0f} % right" for k in lines]
    )
    ax.grid(False)
    ax.set(xlabel="queries (%), sorted by who answers them")
    return ax


def state_map(ax: Axes, points: np.ndarray, correct: np.ndarray, title: str) -> Axes:
    """Draw states on two components (n, 2), by whether a target was right (n,); NaN is left out."""
    for i, (name, value) in enumerate({"right": 1, "wrong": 0}.items()):
        here = points[correct == value]
        ax.scatter(*here.T, s=9, marker=MARKERS[i], color=f"C{i}", alpha=0.6, label=name)
    ax.grid(False)
    ax.set(title=title, xlabel="first component", ylabel="second component", xticks=[], yticks=[])
    legend_below(ax, borderaxespad=2)
    return ax


def encoder_target_heatmap(ax: Axes, matrix: pd.DataFrame, label: str) -> Axes:
    """Draw a value by encoder (rows) and target (columns); each target's best is framed."""
    look = {"annot": True, "fmt": ".3f", "cmap": "cividis", "cbar_kws": {"label": label}}
    sns.heatmap(matrix, ax=ax, **look)
    # turned, so that long names do not overlap
    across, down = (list(map(short, names)) for names in (matrix.columns, matrix.index))
    ax.set_xticks(np.arange(len(across)) + 0.5, across, rotation=30, ha="right")
    ax.set_yticks(np.arange(len(down)) + 0.5, down, rotation=0)
    for column in np.flatnonzero(matrix.notna().any()):
        place = column, np.nanargmax(matrix.iloc[:, column].to_numpy(dtype=float))
        ax.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="crimson", linewidth=2.5))
    ax.set(xlabel="target (the best encoder for each is framed)", ylabel="encoder")
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
        rows, look = rows.sort_values("layer"), look_of(str(name), i)
        ax.plot(rows["layer"], rows[value], label=short(name), **look)
        if {"lower", "upper"} <= set(rows):
            band = (rows["layer"], rows["lower"], rows["upper"])
            ax.fill_between(*band, color=look["color"], alpha=0.15, linewidth=0)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.set(xlabel="layer (0 is the embedding)", ylabel=ylabel)
    name_lines(ax, line)
    return ax


def probe_path(ax: Axes, frame: pd.DataFrame, probe: str, line: str, xlabel: str) -> Axes:
    """Draw AUC against a probe, one point for each layer, joined in the order of layers.

    Parameters
    ----------
    ax : Axes
    frame : pandas.DataFrame
        Columns "layer", which numbers the points, "auc", `probe` and `line`.
    probe, line : str
        Columns; each value of `line` has a path of its own.
    xlabel : str
        What the probe is.
    """
    for i, (name, rows) in enumerate(frame.groupby(line, sort=False)):
        rows, look = rows.sort_values("layer"), look_of(str(name), i) | {"linewidth": 1}
        ax.plot(rows[probe], rows["auc"], label=short(name), **look)
        for layer, *place in zip(rows["layer"], rows[probe], rows["auc"], strict=True):
            aside = {"xytext": (7, 0), "textcoords": "offset points", "annotation_clip": False}
            ax.annotate(layer, place, color=look["color"], va="center", fontsize=9, **aside)
    ax.set(xlabel=xlabel, ylabel="AUC", xmargin=0.1)
    name_lines(ax, line)
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
            look = {"color": f"C{i}", "linestyle": LINES[i], "linewidth": 1.2}
            look |= {"alpha": 0.9 if seed in kept else 0.25}
            label = name if seed == kept[0] else None
            ax.plot(range(1, len(loss) + 1), loss, label=label, **look)
    ax.set(xlabel="epoch", ylabel="binary cross-entropy (nats)")
    ax.legend()
    return ax


def reliability(ax: Axes, routers: Mapping[str, ReliabilityCurve]) -> Axes:
    """Draw the share of right answers against the predicted probability."""
    ax.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1.2, label="perfect")
    for i, (name, curve) in enumerate(routers.items()):
        ax.plot(curve.predicted, curve.observed, label=name, **look_of(name, i))
    ax.set(xlabel="predicted P(correct)", ylabel="share answered correctly")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
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
        Results; those of single seeds become small dots below their line's interval.
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
    scale, single = 100 if percent else 1, rows[rows["seed"].notna()]
    rows = rows[rows["seed"].isna()]
    places, lines = pd.factorize(rows[by])
    number, names = pd.factorize(rows[series] if series else np.zeros(len(rows)))
    # without series a line has the colour of its router or target
    known = {line: look_of(line, 0)["color"] for line in lines if line in _targets | ROUTERS}
    for i, name in enumerate(names):
        here, shift = rows[number == i], 0.7 * ((i + 0.5) / len(names) - 0.5)
        place = places[number == i] + shift
        colours = [known.get(line, INK) for line in here[by]]
        colours = look_of(str(name), i)["color"] if series else colours
        # bounds, not errors: a centred interval may lie on one side of its estimate
        ax.hlines(place, scale * here["lower"], scale * here["upper"], color=colours, linewidth=1.5)
        look = {"marker": MARKERS[i % len(MARKERS)], "color": colours, "s": 30, "zorder": 3}
        ax.scatter(scale * here["estimate"], place, label=short(name), **look)
    dots = lines.get_indexer(single[by]) + 0.28
    ax.scatter(scale * single["estimate"], dots, s=10, color="0.5", linewidth=0)
    if reference is not None:
        ax.axvline(scale * reference, color=INK, linestyle="--", linewidth=1.2)
    ax.set_yticks(
        np.arange(len(lines)), [line if by == "router" else short(line) for line in lines]
    )
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.locator_params("x", nbins=round(12 * ax.get_position().width))  # panels are narrow
    ax.grid(False, axis="y")
    ax.set(xlabel=f"{label}, 95 % interval", ylabel="" if series else by)
    if series:
        legend_below(ax)
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
        here, look = rows[rows[line] == name].sort_values("x"), look_of(str(name), i)
        # Markers stand side by side where several names share a number.
        shift = 1 + 0.04 * (i - (len(names) - 1) / 2) if log and len(numbers) > 1 else 1
        places = here["x"] * shift
        look |= {"linestyle": "none"} if len(here) == 1 else {}
        ax.plot(places, scale * here["estimate"], label=str(name), **look)
        bounds = scale * here["lower"], scale * here["upper"]
        ax.vlines(places, *bounds, color=look["color"], linewidth=1)
    if level is not None:
        ends = [numbers[0], numbers[-1]]
        look = {"color": INK, "linestyle": "--", "label": level.router}
        ax.plot(ends, [scale * level.estimate] * 2, **look)
        ax.axhspan(scale * level.lower, scale * level.upper, color=INK, alpha=0.08, linewidth=0)
    if log:
        positive = numbers[numbers > 0]
        from_zero = numbers[0] == 0 and len(positive)
        about = {"linthresh": positive[0], "linscale": 0.5} if from_zero else {}
        ax.set_xscale("symlog" if from_zero else "log", **about)
        ax.set_xticks(numbers if len(numbers) <= 6 else numbers[[0, -1]])
        ax.tick_params(axis="x", rotation=30 if len(numbers) > 4 else 0)
        ax.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=f"{ylabel}, 95 % interval")
    name_lines(ax)
    return ax


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

    named = []
    for i, (name, values) in enumerate(p.items()):
        curve = routing_curve(values[rows], right, paid, expected_cost[rows])
        look = look_of(name, i) | {"markersize": 4, "markevery": max(1, len(curve.tau) // 8)}
        [line] = ax.plot(*shown(*curve.points), label=f"_{name}", **look)
        named.append((line.get_xydata()[0], name, look["color"]))
        chosen = [one(estimates, metric=m, router=name).estimate for m in ("mean cost", "accuracy")]
        star = {"color": look["color"], "edgecolor": "black", "zorder": 4}
        ax.scatter(*shown(*chosen), marker="*", s=170, **star)
    band = at.band(next(iter(p.values())), expected_cost)
    edges = *shown(band["x"], band["lower"]), 100 * band["upper"]
    first = look_of(next(iter(p)), 0)["color"]
    ax.fill_between(*edges, color=first, alpha=0.15, linewidth=0, label="95 % interval")

    single = shown(paid.mean(axis=0), right.mean(axis=0))
    front, look = pareto_frontier(*single), {"color": INK, "linestyle": ":", "linewidth": 1.2}
    ax.plot(*single[:, front], label="frontier of single targets", **look)
    for k, name in enumerate(at.targets):
        look = look_of(name, k)
        ax.scatter(*single[:, k], marker=look["marker"], color=look["color"], s=50, zorder=3)
        named.append((single[:, k], short(name), look["color"]))
    cells = np.arange(len(right)), policy.oracle(right, paid)
    oracle = shown(paid[cells].mean(), right[cells].mean())
    ax.scatter(*oracle, marker="p", s=110, color="black", zorder=4)
    named.append((oracle, "oracle", "black"))
    ax.scatter(
        [], [], marker="*", s=170, color="white", edgecolor="black", label="chosen on validation"
    )
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    ax.set(xlabel=f"mean cost (USD per {QUERIES:,} queries)", ylabel="accuracy (%)")
    legend_below(ax)
    _name_points(ax, named)
    return ax


def _name_points(ax: Axes, named: Sequence[tuple[np.ndarray, str, object]]) -> None:
    """Name points (place, name, colour) on their right, or where that covers no name or point."""
    ax.figure.draw_without_rendering()  # where things lie is known once they are laid out
    pixels = (ax.transData.transform(place) for place, *_ in named)
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in pixels]
    sides = [(8, dy, "left") for dy in (0, 8, -8)] + [(-8, 0, "right")]
    sides += [(0, dy, "center") for dy in (13, -13, 26, -26)]
    for place, name, color in named:
        look = {"textcoords": "offset points", "va": "center", "fontsize": 9, "zorder": 5}
        text = ax.annotate(name, place, (0, 0), color=color, annotation_clip=False, **look)
        for *offset, side in sides:
            text.set(position=offset, ha=side)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
