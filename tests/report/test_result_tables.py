from dataclasses import replace

import numpy as np
import pytest

from prefill_router.evaluation.estimates import Estimate
from prefill_router.report.result_tables import (
    comparison_sentence,
    differences_table,
    holm_summary,
    results_table,
    routers_of,
    seed_sentence,
    win_rate_matrix,
)

nan = np.nan


def row(metric, router, estimate, lower=nan, upper=nan, split="test", target=""):
    return Estimate(metric, router, target, split, estimate, lower, upper, 100)


ROWS = [
    row("gap closed", "A", 0.25, 0.1, 0.4),
    row("gap closed", "B", 0.05, 0.0, 0.1),
    row("gap closed", "single target", 0.7, 0.6, 0.8, target="k"),
    row("gap closed", "A", 0.9, 0.8, 1.0, split="validation"),
    row("AUC", "A", 0.8, 0.7, 0.9),
    row("configurations tried", "A", 12),
    row("headroom", "oracle", 0.2, 0.1, 0.3),
    row("gap closed difference", "A - B", 0.2, 0.1, 0.3),
    row("p-value", "A - B", 0.01),
    row("p-value (Holm)", "A - B", 0.02),
    row("detectable difference", "A - B", 0.03),
    row("gap closed difference", "A - C", -0.1, -0.2, -0.05),
    row("p-value", "A - C", 0.04),
    row("p-value (Holm)", "A - C", 0.04),
    row("detectable difference", "A - C", 0.03),
    row("gap closed difference", "A - D", 0.1, -0.1, 0.3),
    row("p-value", "A - D", 0.3),
    row("p-value (Holm)", "A - D", 0.3),
    row("detectable difference", "A - D", 0.03),
    row("accuracy", "A", 0.6, 0.5, 0.7),
    row("accuracy", "B", 0.56, 0.5, 0.6),
    row("accuracy", "C", 0.62, 0.5, 0.7),
    row("accuracy", "D", 0.58, 0.5, 0.7),
    row("win rate", "A over B", 0.75, 0.6, 0.9),
]


def test_routers_are_those_with_a_row():
    assert routers_of(ROWS, "gap closed") == ["A", "B"]


def test_a_table_has_a_line_a_router_and_a_column_a_metric_that_exists():
    metrics = {"gap closed": "%", "AUC": "value", "Brier": "value", "configurations tried": ".0f"}
    table = results_table(ROWS, ["A", "B"], metrics)
    assert table.to_dict("list") == {
        "router": ["A", "B"],
        "gap closed": ["25.0 % [10.0, 40.0]", "5.0 % [0.0, 10.0]"],
        "AUC": ["0.800 [0.700, 0.900]", "–"],
        "configurations tried": ["12", "–"],
    }


def test_differences_have_p_values_and_power_in_points_of_gap_closed():
    first = differences_table(ROWS, "A").iloc[0].to_dict()
    assert first == {
        "other router": "B",
        "difference in gap closed": "+20.0 points [+10.0, +30.0]",
        "p": "0.0100",
        "p (Holm)": "0.0200",
        "detectable": "15.0 points",
    }
    assert differences_table(ROWS, "B").empty


def test_without_headroom_there_is_no_detectable_difference():
    rows = [r for r in ROWS if r.metric != "headroom"] + [row("headroom", "oracle", 0.0)]
    assert set(differences_table(rows, "A")["detectable"]) == {"–"}


def test_the_summary_follows_the_corrected_p_values():
    assert holm_summary(ROWS, "A") == (
        "After Holm's correction (level 0.05), A is better than B, worse than C, and not "
        "distinguishable from D."
    )
    unsure = [replace(r, estimate=0.06) if r.metric == "p-value (Holm)" else r for r in ROWS]
    assert "better than none, worse than none" in holm_summary(unsure, "A")
    assert "from B; C and D." in holm_summary(unsure, "A")


def test_without_headroom_the_summary_follows_accuracy():
    rows = [r for r in ROWS if r.metric != "gap closed difference"]
    rows += [row("gap closed difference", f"A - {other}", nan) for other in "BCD"]
    assert holm_summary(rows, "A") == holm_summary(ROWS, "A")


def test_a_comparison_says_its_corrected_p_value():
    assert comparison_sentence(ROWS, "A", "B") == (
        "A is better than B in gap closed (+20.0 points [+10.0, +30.0], 95 % interval; "
        "p = 0.0200 after Holm's correction)."
    )
    many = [replace(r, estimate=0.06) if r.metric == "p-value (Holm)" else r for r in ROWS]
    assert "A is not distinguishable from B" in comparison_sentence(many, "A", "B")
    assert "p = 0.0600" in comparison_sentence(many, "A", "B")
    without = [r for r in ROWS if r.metric != "p-value (Holm)"]
    assert comparison_sentence(without, "A", "B").endswith("95 % interval).")


def test_win_rates_of_a_pair_add_to_one():
    matrix = win_rate_matrix(ROWS)
    assert (matrix.loc["A", "B"], matrix.loc["B", "A"]) == pytest.approx((0.75, 0.25))
    assert np.isnan(np.diag(matrix)).all()


def test_how_much_networks_deviate_is_said():
    nan = float("nan")
    row = Estimate("deviation between seeds, gap closed", "a", "", "test", 0.037, nan, nan, 9)
    assert "gap closed deviates by 3.7 points" in seed_sentence([row], "a", "gap closed")
    assert "is not known" in seed_sentence([row], "b", "gap closed")
