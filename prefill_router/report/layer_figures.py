"""Figures of layers, probes and feature sets: Axes in, Axes out, drawn from estimates alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prefill_router.evaluation.estimates import Estimate, to_frame
from prefill_router.report.plotting import layer_profile
from prefill_router.report.style import INK, MARKERS, colour

MARKS = {"J": "v", "J_pca": "<", "J_white": "^", "AUC, cross-validated": "*"}
"""What may choose a layer, and the marker of its choice."""


def layer_table(estimates: Sequence[Estimate]) -> pd.DataFrame:
    """Return what is known of every layer, one row an encoder, layer and pooling.

    Parameters
    ----------
    estimates : sequence of Estimate
        Those whose `router` reads "ENCODER, layer 3, last" are used.

    Returns
    -------
    pandas.DataFrame
        ``encoder``, ``layer``, ``pooling``, one column a metric, and ``lower`` and ``upper`` of
        "AUC, held out".
    """
    frame = to_frame(estimates)
    parts = frame["router"].str.extract(
        r"^(?P<encoder>.*), layer (?P<layer>\d+), (?P<pooling>\w+)$"
    )
    frame = pd.concat([frame, parts], axis=1).dropna(subset="layer")
    frame["layer"] = frame["layer"].astype(int)
    place = ["encoder", "layer", "pooling"]
    wide = frame.pivot(index=place, columns="metric", values="estimate")
    held = frame[frame["metric"] == "AUC, held out"].set_index(place)
    return wide.join(held[["lower", "upper"]]).reset_index()


def depth_profile(ax: Axes, layers: pd.DataFrame, title: str) -> Axes:
    """Draw one encoder's held-out AUC by layer with the place that each probe ranks highest.

    Parameters
    ----------
    ax : Axes
    layers : pandas.DataFrame
        Rows of `layer_table`.
    title : str
    """
    layers = layers.sort_values("pooling")  # one colour a pooling in every panel
    layer_profile(ax, layers, "AUC, held out", "pooling", "AUC on held-out queries")
    for metric, marker in MARKS.items():
        if layers[metric].notna().any():
            best = layers.loc[layers[metric].idxmax()]
            look = {"marker": marker, "s": 130, "facecolor": "none", "edgecolor": "black"}
            ax.scatter(best["layer"], best["AUC, held out"], label=metric, zorder=5, **look)
    ax.get_legend().remove()
    ax.set_title(title)
    return ax


def probe_scatter(ax: Axes, layers: pd.DataFrame, probe: str) -> Axes:
    """Draw a probe against held-out AUC, a point a layer and pooling; poolings differ in colour."""
    for i, (pooling, rows) in enumerate(layers.groupby("pooling")):
        look = {"marker": MARKERS[i], "color": colour(i), "alpha": 0.75, "s": 34}
        ax.scatter(rows[probe], rows["AUC, held out"], label=pooling, linewidth=0, **look)
    ax.set(xlabel=f"{probe} on training queries", ylabel="AUC on held-out queries")
    ax.legend(title="pooling")
    return ax


def dots(
    ax: Axes,
    series: Mapping[str, Sequence[Estimate]],
    rows: Sequence[str],
    label: str,
    reference: float | None = 0.0,
) -> Axes:
    """Draw several series of estimates with intervals, side by side in each row.

    Parameters
    ----------
    ax : Axes
    series : mapping of name -> sequence of Estimate
        One estimate a row.
    rows : sequence of str
        Names of the rows, from the top.
    label : str
        What is estimated.
    reference : float, optional
        Where a line is drawn.
    """
    for i, (name, estimates) in enumerate(series.items()):
        place = np.arange(len(rows)) + 0.7 * ((i + 0.5) / len(series) - 0.5)
        value, lower, upper = np.array([[e.estimate, e.lower, e.upper] for e in estimates]).T
        look = {"color": colour(i), "marker": MARKERS[i % len(MARKERS)]}
        ax.hlines(place, lower, upper, color=look["color"], linewidth=1.3)
        ax.scatter(value, place, s=24, label=name, zorder=3, **look)
    ax.set_yticks(np.arange(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    if reference is not None:
        ax.axvline(reference, color=INK, linestyle="--", linewidth=1.2)
    ax.grid(False, axis="y")
    ax.set(xlabel=f"{label}, 95 % interval", ylabel="")
    return ax
