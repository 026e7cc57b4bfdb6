import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from prefill_router.evaluation.bootstrap import Interval
from prefill_router.evaluation.curves import RoutingCurve
from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.metrics import ReliabilityCurve, Zones
from prefill_router.report import plotting
from prefill_router.report.style import style

NAMES = ("small", "mid_$1$", "large")  # a name that would be broken mathematics


@pytest.fixture
def ax():
    style()
    figure, axes = plt.subplots()
    yield axes
    assert axes.get_xlabel()
    figure.canvas.draw()  # everything can be rendered
    plt.close(figure)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_accuracy_and_headroom_draws_the_values_and_their_difference(ax):
    targets = dict(
        zip(NAMES, [Interval(v, v - 0.02, v + 0.03) for v in (0.4, 0.6, 0.5)], strict=True)
    )
    shown = plotting.accuracy_and_headroom(ax, targets, Interval(0.8, 0.75, 0.85), "mid_$1$")
    assert shown is ax
    assert [bar.get_width() for bar in ax.containers[-1]] == pytest.approx([40, 60, 50, 80])
    assert "headroom 20.0 points" in legend(ax)
    assert lines(ax)["best single target: mid_$1$"].get_xdata()[0] == pytest.approx(60)
    segments = ax.containers[0].lines[2][0].get_segments()
    assert segments[0][:, 0] == pytest.approx([38, 43])
    assert [text.get_text() for text in ax.get_yticklabels()] == [*NAMES, "oracle"]


def test_agreement_matrix_is_annotated_with_per_cent(ax):
    plotting.agreement_matrix(ax, np.array([[1, 0.25], [0.25, 1]]), NAMES[:2])
    assert [text.get_text() for text in ax.texts] == ["100", "25", "25", "100"]


def test_zones_stack_to_the_whole(ax):
    plotting.zones(ax, {"train": Zones(0.2, 0.5, 0.3, 10), "test": Zones(0.1, 0.6, 0.3, 5)})
    widths = np.array([[bar.get_width() for bar in group] for group in ax.containers])
    assert widths == pytest.approx(np.array([[20, 10], [50, 60], [30, 30]]))
    assert widths.sum(axis=0) == pytest.approx([100, 100])
    assert legend(ax) == ["all right", "some right", "all wrong"]
    assert len({bar.patches[0].get_hatch() for bar in ax.containers}) == 3


def test_layer_profile_draws_each_line_in_order_of_layers_with_its_band(ax):
    frame = pd.DataFrame(
        {
            "layer": [1, 0, 0, 1],
            "pooling": ["last", "last", "mean", "mean"],
            "J": [0.3, 0.1, 0.2, 0.4],
            "lower": [0.2, 0.0, 0.1, 0.3],
            "upper": [0.4, 0.2, 0.3, 0.5],
        }
    )
    plotting.layer_profile(ax, frame, "J", "pooling", "Fisher separability J")
    assert lines(ax)["last"].get_xydata().tolist() == [[0, 0.1], [1, 0.3]]
    assert legend(ax) == ["last", "mean"] and len(ax.collections) == 2
    styles = [(line.get_linestyle(), line.get_marker()) for line in ax.get_lines()]
    assert styles[0][0] != styles[1][0] and styles[0][1] != styles[1][1]
    assert ax.get_ylabel() == "Fisher separability J"


def test_encoder_target_heatmap_frames_the_best_encoder_of_each_target(ax):
    matrix = pd.DataFrame(
        {"a": [0.6, 0.7], "b": [0.9, np.nan], "never": [np.nan, np.nan]}, index=["e1", "e2"]
    )
    plotting.encoder_target_heatmap(ax, matrix, "AUC")
    assert [patch.get_xy() for patch in ax.patches] == [(0, 1), (1, 0)]
    assert {"0.600", "0.700", "0.900"} <= {text.get_text() for text in ax.texts}


def test_training_curves_show_kept_seeds_strong_and_others_pale(ax):
    plotting.training_curves(ax, [[3, 2], [3, 1]], [[3, 2.5], [3, 2.6, 2.7]], kept=[1])
    alphas = [line.get_alpha() for line in ax.get_lines()]
    assert alphas[0] < alphas[1] and alphas[2] < alphas[3]
    assert ax.get_lines()[3].get_xydata().tolist() == [[1, 3], [2, 2.6], [3, 2.7]]
    assert legend(ax) == ["training", "validation"]
    assert ax.get_legend().legend_handles[0].get_alpha() == alphas[1]


def test_reliability_draws_the_curve_beside_the_diagonal(ax):
    curve = ReliabilityCurve(np.array([0.2, 0.7]), np.array([0.1, 0.8]), np.array([5, 5]))
    plotting.reliability(ax, {"trunk": curve})
    assert lines(ax)["trunk"].get_xydata().tolist() == [[0.2, 0.1], [0.7, 0.8]]
    assert legend(ax) == ["perfect calibration", "trunk"]


def test_routing_curves_draw_routers_targets_frontier_oracle_choice_and_band(ax):
    curve = RoutingCurve(np.array([0, 0.5]), np.array([0.003, 0.001]), np.array([0.8, 0.5]))
    band = pd.DataFrame({"cost": [0.003, 0.001], "lower": [0.7, 0.4], "upper": [0.9, 0.6]})
    plotting.routing_curves(
        ax,
        {"trunk": curve, "words": curve},
        NAMES,
        np.array([0.001, 0.002, 0.004]),
        np.array([0.5, 0.4, 0.7]),
        oracle=(0.0015, 0.9),
        chosen={"trunk": (0.002, 0.65)},
        band=band,
    )
    drawn = lines(ax)
    assert drawn["trunk"].get_xydata() == pytest.approx(np.array([[3, 80], [1, 50]]))
    assert drawn["trunk"].get_linestyle() != drawn["words"].get_linestyle()
    frontier = drawn["frontier of single targets"].get_xydata()
    assert frontier == pytest.approx(np.array([[1, 50], [4, 70]]))
    points = [tuple(c.get_offsets()[0]) for c in ax.collections if len(c.get_offsets()) == 1]
    for point in ((2, 65), (1, 50), (2, 40), (4, 70), (1.5, 90)):
        assert any(np.allclose(point, other) for other in points)
    assert {"trunk", "words", *NAMES, "oracle", "95 % interval"} <= set(legend(ax))
    assert "USD per 1,000 queries" in ax.get_xlabel() and "%" in ax.get_ylabel()


def test_forest_draws_estimates_with_their_intervals(ax):
    rows = [
        Estimate("gap closed", "trunk", "", "test", 0.4, 0.3, 0.45, 9),
        Estimate("gap closed", "words", "", "test", 0.1, -0.1, 0.2, 9),
    ]
    plotting.forest(ax, rows, "gap closed (%)")
    points, _, (bars,) = ax.containers[0].lines
    assert points.get_xdata() == pytest.approx([40, 10])
    assert [s[:, 0].tolist() for s in bars.get_segments()] == [
        pytest.approx([30, 45]),
        pytest.approx([-10, 20]),
    ]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["trunk", "words"]
    assert ax.yaxis_inverted()


def test_savings_are_grouped_by_router_and_hatched_by_metric(ax):
    rows = [
        Estimate(metric, router, "", "test", value, value - 0.1, value + 0.1, 9)
        for metric, values in (("saving", (0.3, 0.2)), ("with encoder", (-0.5, 0.1)))
        for router, value in zip(("tolerance", "utility"), values, strict=True)
    ]
    plotting.savings(ax, rows)
    bars = [drawn for drawn in ax.containers if isinstance(drawn, mpl.container.BarContainer)]
    widths = [[bar.get_width() for bar in drawn] for drawn in bars]
    assert widths == [pytest.approx([30, 20]), pytest.approx([-50, 10])]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["tolerance", "utility"]
    assert legend(ax) == ["saving", "with encoder"]
