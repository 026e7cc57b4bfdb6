from itertools import combinations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import results
from prefill_router.metrics import ReliabilityCurve, Zones
from prefill_router.report import plotting
from prefill_router.report.plotting import ROUTERS, look_of, short, style, trade_off

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


def named(axes):
    """What is written beside the ends of lines, from below."""
    texts = [text for text in axes.texts if text.get_position()[0] > 1]
    return [text.get_text() for text in sorted(texts, key=lambda text: text.get_position()[1])]


def line_of(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def rows_of(values, metric="gap closed", router="trunk", **fields):
    bounds = [{"estimate": v, "lower": v - 0.1, "upper": v + 0.2} for v in values]
    return [{"metric": metric, "router": router, **fields, **bound} for bound in bounds]


def names_on(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_accuracy_and_headroom_draws_the_values_and_their_difference(ax):
    *targets, oracle = results(rows_of([0.4, 0.6, 0.5, 0.8])).itertuples()
    plotting.accuracy_and_headroom(ax, dict(zip(NAMES, targets, strict=True)), oracle, "mid_$1$")
    assert [bar.get_width() for bar in ax.containers[-1]] == pytest.approx([40, 60, 50, 80])
    assert "headroom 20.0 points" in legend(ax)
    assert line_of(ax, "best single target: mid_$1$").get_xdata()[0] == pytest.approx(60)
    segments = ax.containers[0].lines[2][0].get_segments()
    assert segments[0][:, 0] == pytest.approx([30, 60])
    assert names_on(ax.yaxis) == [*NAMES, "oracle"]


def test_zones_stack_to_the_whole(ax):
    plotting.zones(ax, {"train": Zones(0.2, 0.5, 0.3, 10), "test": Zones(0.1, 0.6, 0.3, 5)})
    widths = [bar.get_width() for group in ax.containers for bar in group]
    assert widths == pytest.approx([20, 10, 50, 60, 30, 30])
    assert legend(ax) == ["all right", "some right", "all wrong"]
    looks = {(bar.patches[0].get_hatch(), bar.patches[0].get_facecolor()) for bar in ax.containers}
    assert len(looks) == 3


def test_answer_patterns_show_the_headroom_between_the_best_single_target_and_the_oracle(ax):
    right = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1],
                      [1, 1, 0], [0, 0, 0], [0, 0, 1]])  # fmt: skip
    plotting.answer_patterns(ax, right, NAMES, best=0)
    assert [text.get_text() for text in ax.texts] == [
        "all right\n10 %", "best single right\n30 %", "headroom\n40 %", "all wrong\n20 %",
    ]  # fmt: skip
    lines = ["large", "small", "mid_$1$"]  # by accuracy
    assert names_on(ax.yaxis) == [
        f"{n}: {s} % right" for n, s in zip(lines, (50, 40, 30), strict=True)
    ]
    filled = ax.images[0].get_array().std(axis=2) > 0.01  # wrong is grey
    expected = [[1, 1, 0, 0, 1, 1, 1, 0, 0, 0], [1] * 4 + [0] * 6, [1, 0, 1, 0, 0, 0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(filled, expected)
    by_fold = plt.figure().subplots()
    plotting.answer_patterns(by_fold, right, NAMES, best=np.repeat([0, 2], 5))
    assert by_fold.texts[1].get_text() == "best single right\n40 %"


def test_state_map_leaves_out_what_has_no_label(ax):
    points = np.arange(8.0).reshape(4, 2)
    plotting.state_map(ax, points, np.array([1, 0, np.nan, 1]), "layer 3, last")
    shown = {c.get_label(): c.get_offsets().tolist() for c in ax.collections}
    assert shown == {"right": [[0, 1], [6, 7]], "wrong": [[2, 3]]}


def test_each_targets_best_encoder_is_framed(ax):
    columns = {"a": [0.6, 0.7], "b": [0.9, np.nan], "never": [np.nan, np.nan]}
    plotting.encoder_target_heatmap(ax, pd.DataFrame(columns, index=["e1", "e2"]), "AUC")
    assert [patch.get_xy() for patch in ax.patches] == [(0, 1), (1, 0)]
    assert {"0.600", "0.700", "0.900"} <= {text.get_text() for text in ax.texts}


def test_layer_profile_draws_each_line_in_order_of_layers_with_its_band(ax):
    frame = pd.DataFrame({"layer": [1, 0, 0, 1], "pooling": ["last", "last", "mean", "mean"]})
    frame = frame.assign(J=[0.3, 0.1, 0.2, 0.4], lower=0.0, upper=0.5)
    plotting.layer_profile(ax, frame, "J", "pooling", "Fisher separability J")
    assert line_of(ax, "last").get_xydata().tolist() == [[0, 0.1], [1, 0.3]]
    assert named(ax) == ["last", "mean"] and len(ax.collections) == 2
    assert ax.get_ylabel() == "Fisher separability J"


def test_probe_path_joins_layers_in_order_and_numbers_them(ax):
    frame = pd.DataFrame({"layer": [5, 1, 3], "J": [0.3, 0.1, 0.2], "auc": [0.6, 0.8, 0.7]})
    plotting.probe_path(ax, frame.assign(pooling="last"), "J", "pooling", "J")
    assert line_of(ax, "last").get_xydata().tolist() == [[0.1, 0.8], [0.2, 0.7], [0.3, 0.6]]
    *numbers, name = ax.texts
    assert {number.get_text(): number.xy[0] for number in numbers} == {"1": 0.1, "3": 0.2, "5": 0.3}
    assert name.get_text() == "last"


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
    assert line_of(ax, "trunk").get_xydata().tolist() == [[0.2, 0.1], [0.7, 0.8]]
    assert legend(ax) == ["perfect", "trunk"]


def test_forest_draws_estimates_with_their_intervals(ax):
    rows = results(rows_of([0.4]) + rows_of([0.1], router="words"))
    plotting.forest(ax, rows, "gap closed (%)")
    assert ax.collections[1].get_offsets()[:, 0].tolist() == pytest.approx([40, 10])
    segments = [s[:, 0] for s in ax.collections[0].get_segments()]
    assert np.array(segments) == pytest.approx(np.array([[30, 60], [0, 30]]))
    assert names_on(ax.yaxis) == ["trunk", "words"] and ax.yaxis_inverted()


def test_forest_draws_single_seeds_as_dots_of_their_line(ax):
    rows = rows_of([0.4]) + rows_of([0.1], router="words") + rows_of([0.2, 0.3], router="words")
    rows = results(row | {"seed": s} for row, s in zip(rows, (None, None, 0, 1), strict=True))
    dots = plotting.forest(ax, rows, "gap closed (%)").collections[-1].get_offsets()
    np.testing.assert_allclose(dots, [[20, 1.28], [30, 1.28]])
    assert len(ax.get_yticks()) == 2


def test_forest_lays_series_side_by_side(ax):
    rows = rows_of([1, 2], "AUC", encoder="a") + rows_of([3, np.nan], "Brier", encoder="b")
    plotting.forest(ax, results(rows), "x", percent=False, by="encoder", series="metric")
    places = {c.get_label(): c.get_offsets().tolist() for c in ax.collections[1::2]}
    assert [x for x, _ in places["AUC"]] == [1, 2] and legend(ax) == ["AUC", "Brier"]
    assert places["AUC"][0][1] < 0 < 1 < places["Brier"][0][1]
    assert names_on(ax.yaxis) == ["a", "b"]


def test_trend_draws_every_number_with_its_interval(ax):
    rows = rows_of([0.5], x=250) + rows_of([0.3], x=0) + rows_of([0.2], router="b", x=0)
    level = results(rows_of([0.4], router="flat")).iloc[0]
    plotting.trend(ax, results(rows), "steps", "AUC", percent=True, level=level)
    assert line_of(ax, "trunk").get_ydata() == pytest.approx([30, 50])
    assert line_of(ax, "b").get_linestyle() == "None"
    assert ax.collections[0].get_segments()[1][:, 1] == pytest.approx([40, 70])
    assert ax.get_xscale() == "symlog" and {0, 250} <= set(ax.get_xticks())
    assert named(ax) == ["b", "flat", "trunk"]
    aside = results([*rows_of([0.3], x=1), *rows_of([0.3], x=99)]).assign(lower=0.4, upper=0.6)
    other = plotting.trend(plt.figure().subplots(), aside, "size", "AUC")
    assert other.get_xscale() == "log"
    assert other.collections[0].get_segments()[0][:, 1] == pytest.approx([0.4, 0.6])


def test_series_have_the_cycles_colours_and_differ_in_line_or_marker():
    style()
    assert all(look_of("", i)["color"] == to_rgb(f"C{i}") for i in range(12))
    assert len({tuple(look_of("", i).values()) for i in range(60)}) == 60


def test_targets_and_routers_look_the_same_wherever_they_are_drawn(ax):
    style(NAMES)
    looks = [look_of(name, i) for i in (0, 3) for name in (*NAMES, *ROUTERS)]
    assert looks[: len(looks) // 2] == looks[len(looks) // 2 :]
    assert len({tuple(look.values()) for look in looks}) == len(NAMES) + len(ROUTERS)
    plotting.forest(ax, results(rows_of([0.1]) + rows_of([0.1], router="large")), "x")
    assert ax.collections[1].get_facecolor()[1, :3] == pytest.approx(look_of("large", 0)["color"])
    style()
    assert look_of("large", 0) != look_of("large", 1)


def test_ends_of_lines_are_named_apart_and_many_lines_have_a_legend(ax):
    rows = [row for i in range(5) for row in rows_of([0.3], router=f"r{i}", x=1)]
    plotting.trend(ax, results(rows), "x", "AUC", log=False)
    heights = sorted(text.get_position()[1] for text in ax.texts)
    assert np.diff(heights).min() > 0.04 and len(named(ax)) == 5
    many = plt.figure().subplots()
    plotting.trend(many, results(rows + rows_of([0.3], router="r5", x=1)), "x", "AUC", log=False)
    assert legend(many) == [f"r{i}" for i in range(6)] and not named(many)


def test_names_are_shortened():
    shown = {"owner/model-7b": "model-7b", "a b": "a b", "/x/y/": "y"}
    shown["m" * 20 + "n" * 20] = "m" * 13 + "…" + "n" * 14
    assert list(map(short, shown)) == list(shown.values())


P = {name: np.array([[0.9, 0.5], [0.2, 0.8], [0.5, 0.5]]) for name in ("r", "words")}
COSTS = np.tile([0.001, 0.004], (3, 1))
AT = Evaluation([[1.0, 0.0], [0.0, 1.0], [np.nan, 1.0]], COSTS, targets=("a", "b"))
CHOSEN = {"mean cost": 0.002, "accuracy": 0.75}
ESTIMATES = results({"metric": m, "router": r, "estimate": CHOSEN[m]} for r in P for m in CHOSEN)


def test_the_curve_of_complete_rows_is_drawn_with_the_chosen_point_and_the_oracle():
    figure, ax = plt.subplots()
    found = trade_off(ax, AT, P, AT.cost, ESTIMATES)
    assert found is ax
    lines = {line.get_label(): line for line in ax.get_lines()}
    # the likeliest target of both queries: right, for 1 and 4; else the cheapest, half right
    assert lines["_r"].get_xydata()[0] == pytest.approx([2.5, 100])
    assert lines["_r"].get_xydata()[-1] == pytest.approx([1, 50])
    points = [tuple(c.get_offsets()[0]) for c in ax.collections if len(c.get_offsets()) == 1]
    for point in ((2, 75), (1, 50), (4, 50), (2.5, 100)):
        assert any(np.allclose(point, other) for other in points)
    assert lines["_r"].get_linestyle() != lines["_words"].get_linestyle()
    frontier = lines["frontier of single targets"].get_xydata()
    assert frontier == pytest.approx(np.array([[1, 50]]))
    assert {*legend(ax)} == {"frontier of single targets", "95 % interval", "chosen on validation"}
    assert {text.get_text() for text in ax.texts} == {*P, "a", "b", "oracle"}
    boxes = [text.get_window_extent() for text in ax.texts]  # of three, the points are the same
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert "USD per 1,000 queries" in ax.get_xlabel() and "%" in ax.get_ylabel()
    with pytest.raises(InputError, match="no result of metric='accuracy', router='r'"):
        trade_off(ax, AT, P, AT.cost, ESTIMATES[:1])
    plt.close(figure)
