"""Draw the method, from a prompt to the target that is asked: book/_static/method.svg."""

from itertools import chain, pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.patches import FancyBboxPatch, Rectangle

INK, PALE = "0.2", "0.93"
BLUE, ORANGE, GREEN = sns.color_palette("colorblind")[:3]
TARGETS = ("small", "middle", "large")
P = (0.34, 0.86, 0.91)
PRICES = ("$", "$$", "$$$")


def box(ax, x, y, width, height, text="", face=PALE, **looks):
    """Draw a rounded box with text in its middle."""
    shape = "round,pad=0,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch((x, y), width, height, shape, facecolor=face, edgecolor=INK))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", **looks)


def arrow(ax, start, end):
    """Draw an arrow between two points."""
    look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def caption(ax, x, chapter, title, text):
    """Write what a part is called, the chapter that explains it, and what it does."""
    ax.text(x, 0.98, title, ha="center", va="top", weight="bold")
    ax.text(x, 0.72, f"{text}\n{chapter}", ha="center", va="top", color="0.35", fontsize=8)


def draw(ax):
    """Draw all parts from left to right; one unit is an inch."""
    box(
        ax,
        0,
        1.75,
        1.15,
        1.1,
        "A shop sells\npens at 3 for\n2 euros.\nHow many\nfor 14?",
        "white",
        fontsize=8,
    )
    caption(ax, 0.57, "chapter 1", "prompt", "labels say who\nanswered such\nqueries correctly")
    arrow(ax, (1.2, 2.3), (1.5, 2.3))

    for layer in range(6):
        chosen = layer == 3
        box(ax, 1.55, 1.2 + 0.37 * layer, 1.0, 0.3, f"block {layer + 1}", BLUE if chosen else PALE,
            fontsize=8, color="white" if chosen else INK)  # fmt: skip
    caption(
        ax,
        2.05,
        "chapters 2, 3, 4",
        "encoder",
        "prefill only: no\ntoken generated;\na probe picks layers",
    )
    arrow(ax, (2.6, 2.46), (2.95, 2.46))

    values = np.linspace(0.15, 0.95, 9)[np.array([4, 1, 7, 3, 8, 0, 5, 2, 6])]
    for i, value in enumerate(values):
        shade = tuple(1 - value * (1 - np.array(BLUE)))
        ax.add_patch(
            Rectangle((3.0, 1.45 + 0.2 * i), 0.32, 0.2, facecolor=shade, edgecolor="white")
        )
    caption(ax, 3.18, "chapters 2, 5", "state", "pooled over\ntokens, reduced\nby PCA")
    arrow(ax, (3.37, 2.35), (3.72, 2.35))

    columns = [(3.9, 5), (4.45, 4), (5.0, 3)]
    nodes = [[(x, 2.35 + 0.36 * (i - (n - 1) / 2)) for i in range(n)] for x, n in columns]
    for left, right in pairwise(nodes):
        for a in left:
            for b in right:
                ax.plot(*zip(a, b, strict=True), color="0.75", linewidth=0.6, zorder=1)
    for x, y in chain(*nodes):
        ax.scatter(x, y, s=60, color=ORANGE, edgecolor=INK, linewidth=0.6, zorder=2)
    caption(ax, 4.45, "chapter 5", "SharedTrunkNet", "one network,\nall targets")

    for (x, y), p in zip(nodes[-1], P, strict=True):
        ax.add_patch(Rectangle((x + 0.18, y - 0.1), 0.75, 0.2, facecolor=PALE))
        ax.add_patch(Rectangle((x + 0.18, y - 0.1), 0.75 * p, 0.2, facecolor=ORANGE))
        ax.text(x + 0.22, y, f"p = {p:.2f}", va="center", fontsize=8)
    arrow(ax, (6.0, 2.35), (6.3, 2.35))
    box(ax, 6.32, 1.95, 0.62, 0.8, "within\nτ of the\nbest?", "white", fontsize=8)
    caption(ax, 6.63, "chapter 6", "policy", "the cheapest\nthat is likely\nto be right")

    for (name, price), (_, y) in zip(zip(TARGETS, PRICES, strict=True), nodes[-1], strict=True):
        place, chosen = 2.35 + 1.5 * (y - 2.35), name == "middle"
        look = {"fontsize": 8, "color": "white" if chosen else INK}
        box(ax, 7.25, place - 0.2, 0.75, 0.4, f"{name}\n{price}", GREEN if chosen else PALE, **look)
    arrow(ax, (6.97, 2.35), (7.23, 2.35))
    caption(ax, 7.62, "chapter 10", "target", "is asked, and\nmay be closed")


def main():
    """Write the drawing, the same bytes on every run."""
    plt.rcParams |= {"svg.hashsalt": "method", "font.size": 9, "text.parse_math": False}
    figure = plt.figure(figsize=(8.1, 3.5))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-0.05, 8.05), ylim=(0, 3.5))
    ax.set_axis_off()
    draw(ax)
    target = Path(__file__).parent / "_static" / "method.svg"
    figure.savefig(target, metadata={"Date": None})
    return figure


if __name__ == "__main__":
    main()
