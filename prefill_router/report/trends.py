"""Figures of estimates against a number: labels, draws, parameters, training steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from prefill_router.evaluation.estimates import Estimate
from prefill_router.report.style import INK, look_of

Trend = list[tuple[float, Estimate]]


def by_number(estimates: Sequence[Estimate], metric: str, noun: str) -> dict[str, Trend]:
    """Sort the estimates of routers such as ``"own head, 30 labels"`` by name and number.

    Parameters
    ----------
    estimates : sequence of Estimate
    metric : str
    noun : str
        What is counted, such as ``"labels"``; other routers are left out.

    Returns
    -------
    dict of str to list of (float, Estimate)
        By falling order of first mention, each by rising number.
    """
    found: dict[str, Trend] = {}
    for row in estimates:
        match = re.fullmatch(rf"(.+), (\d+) {re.escape(noun)}", row.router)
        if row.metric == metric and match:
            found.setdefault(match[1], []).append((float(match[2]), row))
    return {name: sorted(trend, key=lambda pair: pair[0]) for name, trend in found.items()}


def against_number(
    ax: Axes,
    trends: Mapping[str, Trend],
    xlabel: str,
    ylabel: str,
    percent: bool = False,
    log: bool = True,
    level: Estimate | None = None,
) -> Axes:
    """Draw estimates with intervals against a number, one line a name.

    Parameters
    ----------
    ax : Axes
    trends : mapping of str to list of (float, Estimate)
        A trend of one point is drawn as a marker alone.
    xlabel, ylabel : str
    percent : bool, default False
        Whether estimates are shares to be shown in per cent.
    log : bool, default True
        Whether the number's axis is logarithmic; 0 then has a place of its own, on its left.
    level : Estimate, optional
        Drawn as a line across, with its interval as a band.
    """
    scale = 100 if percent else 1
    numbers = np.unique([x for trend in trends.values() for x, _ in trend])
    for i, (name, trend) in enumerate(trends.items()):
        # Markers stand side by side where several names share a number.
        shift = 1 + 0.04 * (i - (len(trends) - 1) / 2) if log and len(numbers) > 1 else 1
        x = [number * shift for number, _ in trend]
        y = scale * np.array([row.estimate for _, row in trend])
        bounds = scale * np.array([[row.lower, row.upper] for _, row in trend])
        look = look_of(i) if len(trend) > 1 else look_of(i) | {"linestyle": "none"}
        ax.plot(x, y, label=name, **look)
        ax.vlines(x, *bounds.T, color=look["color"], linewidth=1)  # may lie on one side of it
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
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=f"{ylabel}, 95 % interval")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return ax
