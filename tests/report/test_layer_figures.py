import numpy as np
import pytest
from matplotlib import pyplot as plt

from prefill_router.evaluation.estimates import Estimate
from prefill_router.report.layer_figures import depth_profile, dots, layer_table, probe_scatter


def rows(metric, values, encoder="dir/a, b", pooling="mean"):
    return [
        Estimate(metric, f"{encoder}, layer {i}, {pooling}", "", "train", v, v - 1, v + 1, 9)
        for i, v in enumerate(values)
    ]


@pytest.fixture
def layers():
    found = []
    for pooling, shift in (("mean", 0.0), ("last", 0.1)):
        found += rows("AUC, held out", [0.6 + shift, 0.7 + shift], pooling=pooling)
        for probe in ("J", "J_pca", "J_white", "d_eff", "AUC, cross-validated"):
            found += rows(probe, [0.3 + shift, 0.2 + shift], pooling=pooling)
    found.append(Estimate("AUC", "a router", "", "test", 0.1, 0.0, 0.2, 9))
    return layer_table(found)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_a_layer_s_metrics_stand_in_one_row(layers):
    assert len(layers) == 4
    row = layers[(layers["pooling"] == "last") & (layers["layer"] == 1)].iloc[0]
    assert row["encoder"] == "dir/a, b"
    assert row[["AUC, held out", "lower", "upper", "J"]].tolist() == pytest.approx(
        [0.8, -0.2, 1.8, 0.3]
    )


def test_marks_stand_where_a_probe_is_highest(ax, layers):
    depth_profile(ax, layers, "title")
    offsets = [c.get_offsets()[0].tolist() for c in ax.collections if len(c.get_offsets()) == 1]
    marks = [place for place in offsets if place != [0, 0]] or offsets
    assert len(offsets) >= 4
    assert [0, pytest.approx(0.7)] in marks  # layer 0, last pooling, AUC 0.7


def test_poolings_are_told_apart(ax, layers):
    probe_scatter(ax, layers, "J")
    points = {c.get_label(): c.get_offsets().tolist() for c in ax.collections}
    assert set(points) == {"last", "mean"}
    np.testing.assert_allclose(points["mean"], [[0.3, 0.6], [0.2, 0.7]])


def test_dots_draw_estimates_and_intervals_in_rows(ax):
    series = {
        "one": rows("x", [1.0, 2.0]),
        "two": rows("x", [3.0, np.nan]),
    }
    dots(ax, series, ["first", "second"], "AUC")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["first", "second"]
    assert ax.get_xlabel() == "AUC, 95 % interval"
    points = {c.get_label(): c.get_offsets() for c in ax.collections if c.get_label() in series}
    np.testing.assert_allclose(points["one"][:, 0], [1.0, 2.0])
    assert points["one"][0, 1] < 0 < points["two"][0, 1] < points["one"][1, 1]
    assert ax.yaxis_inverted()
