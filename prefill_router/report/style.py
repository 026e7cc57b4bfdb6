"""The look that all figures share.

Series differ in line style, marker or hatching as well as in colour, so that figures can be read in
grey and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

MARKERS = "osD^vPX<>*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
HATCHES = ("", "//", "..", "xx", "\\\\")
INK = "0.25"
PALETTE = "colorblind"
Rows = pd.DataFrame | Sequence[pd.Series]


def style() -> None:
    """Set the look of all figures; call it once, before the first.

    Text is never read as mathematics: names come from data, and a stray dollar sign would break
    the figure.
    """
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=PALETTE,
        rc={
            "figure.figsize": (7, 4.3),
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
            "lines.markersize": 6,
            "text.parse_math": False,
        },
    )


def colour(i: int) -> tuple[float, float, float]:
    """Return the colour of the i-th series, as (red, green, blue)."""
    palette = sns.color_palette(PALETTE)
    return palette[i % len(palette)]


def look_of(i: int) -> dict[str, object]:
    """Return the colour, line style and marker of the i-th series, as `Axes.plot` takes them."""
    marker, line = MARKERS[i % len(MARKERS)], LINES[i % len(LINES)]
    return {"color": colour(i), "linestyle": line, "marker": marker}


def as_frame(rows: Rows) -> pd.DataFrame:
    """Return results as a table, also where they are a list of single rows."""
    if isinstance(rows, pd.DataFrame):
        return rows
    return pd.DataFrame(list(rows))


def tilt(ax: Axes) -> None:
    """Turn the names of the columns of a matrix, so that long ones do not overlap."""
    ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=30, ha="right")
    ax.set_yticks(ax.get_yticks(), ax.get_yticklabels(), rotation=0)


def legend_outside(ax: Axes, below: bool = False) -> None:
    """Put the legend where it covers no data: on the right, or below."""
    if below:
        # so many font sizes below the axes, however high they are: ticks and label lie between
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5, ncols=3, frameon=False
        )
    else:
        ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
