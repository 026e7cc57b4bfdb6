import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import results
from prefill_router.report.trade_off import trade_off

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
    assert lines["r"].get_xydata()[0] == pytest.approx([2.5, 100])
    assert lines["r"].get_xydata()[-1] == pytest.approx([1, 50])
    points = [tuple(c.get_offsets()[0]) for c in ax.collections if len(c.get_offsets()) == 1]
    for point in ((2, 75), (1, 50), (4, 50), (2.5, 100)):
        assert any(np.allclose(point, other) for other in points)
    assert lines["r"].get_linestyle() != lines["words"].get_linestyle()
    frontier = lines["frontier of single targets"].get_xydata()
    assert frontier == pytest.approx(np.array([[1, 50]]))
    shown = {text.get_text() for text in ax.get_legend().get_texts()}
    assert shown == {*P, "a", "b", "oracle", *lines, "95 % interval", "chosen on validation"}
    assert "USD per 1,000 queries" in ax.get_xlabel() and "%" in ax.get_ylabel()
    with pytest.raises(InputError, match="no result of metric='accuracy', router='r'"):
        trade_off(ax, AT, P, AT.cost, ESTIMATES[:1])
    plt.close(figure)
