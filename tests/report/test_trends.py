import numpy as np
import pytest
from matplotlib import pyplot as plt

from prefill_router.evaluation.estimates import Estimate
from prefill_router.report.trends import against_number, by_number


def row(router, estimate, metric="AUC"):
    return Estimate(metric, router, "", "test", estimate, estimate - 0.1, estimate + 0.1, 9)


def test_names_and_numbers_are_told_apart():
    rows = [row("a, b, 30 labels", 0.3), row("a, b, 4 labels", 0.1), row("a, 4 draws", 0.2)]
    rows += [row("c, 4 labels", 0.5), row("c, 4 labels", 0.6, "Brier"), row("c", 0.7)]
    found = by_number(rows, "AUC", "labels")
    assert {n: [(x, r.estimate) for x, r in t] for n, t in found.items()} == {
        "a, b": [(4, 0.1), (30, 0.3)],
        "c": [(4, 0.5)],
    }


@pytest.mark.parametrize("percent", [False, True])
def test_every_number_is_drawn_with_its_interval(percent):
    trends = {"a": [(0, row("a", 0.3)), (250, row("a", 0.5))], "b": [(0, row("b", 0.2))]}
    ax = plt.figure().add_subplot()
    against_number(ax, trends, "steps", "AUC", percent=percent, level=row("flat", 0.4))
    scale = 100 if percent else 1
    drawn = [line for line in ax.lines if line.get_label() in trends]
    heights = [line.get_ydata() for line in drawn]
    np.testing.assert_allclose(np.concatenate(heights), scale * np.array([0.3, 0.5, 0.2]))
    bars = ax.collections[0].get_segments()
    assert np.diff(bars[1][:, 1])[0] == pytest.approx(0.2 * scale)
    aside = {"a": [(1, Estimate("AUC", "a", "", "test", 0.3, 0.4, 0.6, 9))]}
    other = plt.figure().add_subplot()
    against_number(other, aside, "steps", "AUC")
    np.testing.assert_allclose(other.collections[0].get_segments()[0][:, 1], [0.4, 0.6])
    plt.close(other.figure)
    assert ax.get_xscale() == "symlog" and [t.get_text() for t in ax.get_legend().texts]
    assert {0, 250} <= set(ax.get_xticks())
    plt.close(ax.figure)


def test_sizes_are_on_a_logarithmic_axis():
    ax = plt.figure().add_subplot()
    against_number(ax, {"a": [(10, row("a", 0.3)), (1000, row("a", 0.5))]}, "size", "AUC")
    assert ax.get_xscale() == "log"
    plt.close(ax.figure)
