import numpy as np
import pytest

from prefill_router.evaluation.results import results, select
from prefill_router.report.tables import holm_summary, results_table


def row(metric, router, estimate, lower=np.nan, upper=np.nan, **fields):
    of = {"metric": metric, "router": router, "estimate": estimate}
    return of | {"lower": lower, "upper": upper} | fields


@pytest.fixture
def frame():
    p = {"B": 0.02, "C": 0.04, "D": 0.3}
    accuracy = {"A": 0.6, "B": 0.56, "C": 0.62, "D": 0.58}
    rows = [
        row("gap closed", "A", 0.25, 0.1, 0.4),
        row("gap closed", "B", 0.05, 0.0, 0.1),
        row("AUC", "A", 0.8, 0.7, 0.9),
        row("configurations tried", "A", 12),
        row("gap closed", "A", 0.2, 0.1, 0.3, versus="B"),
    ]
    rows += [row("p-value (Holm)", "A", value, versus=other) for other, value in p.items()]
    rows += [row("accuracy", name, value) for name, value in accuracy.items()]
    return results(rows)


def test_a_table_has_a_line_a_router_and_a_column_a_metric_that_exists(frame):
    metrics = {"gap closed": "%", "AUC": "value", "Brier": "value", "configurations tried": ".0f"}
    table = results_table(select(frame, router=["A", "B"]), metrics)
    assert table.to_dict("list") == {
        "router": ["A", "B"],
        "gap closed": ["25.0 % [10.0, 40.0]", "5.0 % [0.0, 10.0]"],
        "AUC": ["0.800 [0.700, 0.900]", "–"],
        "configurations tried": ["12", "–"],
    }


def test_lines_may_be_what_a_router_is_compared_with(frame):
    differences = frame[frame["versus"] != ""]
    table = results_table(
        differences, {"gap closed": "points", "p-value (Holm)": ".4f"}, by="versus"
    )
    assert table.iloc[0].tolist() == ["B", "+20.0 points [+10.0, +30.0]", "0.0200"]
    assert table["gap closed"].tolist()[1:] == ["–", "–"]


def test_the_summary_follows_the_corrected_p_values_and_accuracy(frame):
    assert holm_summary(frame, "A") == (
        "After Holm's correction (level 0.05), A is better than B, worse than C, and not "
        "distinguishable from D."
    )
    frame.loc[frame["metric"] == "p-value (Holm)", "estimate"] = 0.06
    assert "better than none, worse than none" in holm_summary(frame, "A")
    assert "from B; C and D." in holm_summary(frame, "A")
