import math

import numpy as np
import pytest

from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments import promise_report as report
from prefill_router.experiments.against_single import LEAD, SAVED
from prefill_router.experiments.calibrated_predictions import AMONG_ANSWERED, ANSWERED
from prefill_router.experiments.certificates import (
    CERTIFIED,
    CERTIFYING,
    FIRST_P,
    GROUPS,
    MEDIAN_TAU,
    REPORTING,
    TAU,
)
from prefill_router.experiments.spending import BUDGET, SPENT
from prefill_router.router.cost_comparison import ENCODER, ERROR, SAVING

NAN = math.nan
NAME = "at most 2 points"


def row(metric, router, estimate, lower=NAN, upper=NAN, split="test", n=90, target=""):
    return Estimate(metric, router, target, split, estimate, lower, upper, n)


def certificates(*taus):
    for fold, tau in enumerate(taus, start=1):
        name = f"{NAME}, fold {fold}"
        for metric, value in ((TAU, tau), (FIRST_P, 0.3 / fold), (GROUPS, 40.0)):
            yield row(metric, name, value, split=CERTIFYING)


def lead(estimate, lower, upper):
    return row(LEAD, f"{NAME} - best single target", estimate, lower, upper, REPORTING)


def test_a_promise_that_is_not_made_says_what_is_asked():
    [line] = report.guarantee_lines([*certificates(NAN), lead(0.0, 0.0, 0.0)])
    assert line == (
        "A loss of at most 2 points allowed: nothing is certified by 90 held-out queries in 40 "
        "groups (p is 0.3); the best single target is asked."
    )
    [line] = report.guarantee_lines(list(certificates(NAN, NAN)))
    assert (
        "nothing is certified in any fold by 90 held-out queries" in line
        and "least p-value is 0.15" in line
    )


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((-0.01, -0.015, 0.03), "within what is allowed."),
        ((-0.01, -0.05, 0.03), "within what is allowed, though a larger loss cannot be excluded."),
        ((-0.03, -0.05, 0.01), "more than is allowed, though chance may explain it."),
        ((-0.05, -0.07, -0.03), "more than is allowed, and not by chance."),
    ],
)
def test_a_promise_is_held_against_the_other_half(bounds, said):
    [line] = report.guarantee_lines([*certificates(0.1, NAN, 0.2), lead(*bounds)])
    assert "tau 0.1 to 0.2 is certified in 2 of 3 folds, by 90 held-out queries" in line
    assert line.endswith(said)
    saved = row(SAVED, NAME, 0.3, 0.2, 0.4, REPORTING)
    [line] = report.guarantee_lines([*certificates(0.1), lead(*bounds), saved])
    assert line.endswith("It saves 30.0 % [20.0, 40.0] of that target's cost.")


def test_labels_are_enough_where_most_draws_certify():
    def shares(*values, n=20):
        return [
            row(CERTIFIED, f"{NAME}, {labels} labels", value, 0, 1, n=n if labels < 90 else 1)
            for labels, value in zip((10, 50, 90), values, strict=True)
        ]

    [line] = report.labels_lines(shares(0.5, 0.8, 1.0))
    assert line == "A loss of at most 2 points: 50 labels are enough in 80 % of the draws."
    [line] = report.labels_lines(shares(0.1, 0.5, 1.0))
    assert "all 90 labels of a test part certify a tolerance, 50 in 50 % of the draws" in line
    [line] = report.labels_lines(shares(0.1, 0.5, 0.0))
    assert "all 90 labels of a test part do not certify a tolerance" in line
    table = report.labels_table([*shares(0, 0.5, 1), row(MEDIAN_TAU, f"{NAME}, 50 labels", 0.1)])
    assert table["tau (median of those)"].tolist() == ["–", "0.1", "–"]
    assert table["certified"].tolist() == ["0 %", "50 %", "100 %"]


def test_calibration_may_help_or_harm():
    for bounds, said in (((-0.02, -0.03, -0.01), "better"), ((0.02, 0.01, 0.03), "worse")):
        line = report.calibration_line(
            [row("ECE difference", "calibrated - uncalibrated", *bounds)]
        )
        assert f"Calibrated P(correct) is {said} than uncalibrated" in line
    rows = [
        row(metric, name, 0.1, 0.05, 0.2, target=target)
        for metric in ("ECE", "Brier")
        for name in ("calibrated", "uncalibrated")
        for target in ("a", "")
    ]
    assert report.calibration_table(rows)["target"].tolist() == ["a", "mean of targets"]


def costs():
    pair = "tolerance, predicted lengths - tolerance, median lengths"
    rows = [
        row(
            SAVING + " difference", "tolerance, predicted lengths - median lengths", 0.1, 0.05, 0.2
        ),
        row(SAVED + " difference", pair, -0.1, -0.2, -0.05),
        row(LEAD, pair, 0.0, -0.1, 0.1),
    ]
    for way in ("predicted lengths", "median lengths", "mean lengths"):
        name = f"tolerance, {way}"
        rows += [row(m, name, 0.3, 0.2, 0.4) for m in (SAVED, SAVED + ENCODER, SAVING, "accuracy")]
        rows.append(row(LEAD, f"{name} - best single target", -0.01, -0.02, 0.01))
        rows.append(row(ERROR, way, 0.5, 0.4, 0.6, target="a"))
    pair = "predicted lengths - mean lengths"
    return [*rows, row(ERROR + " difference", pair, -0.1, -0.2, 0.0, target="a")]


def test_the_verdict_on_predicted_lengths_is_told_whichever_way_it_falls():
    lines = report.cost_lines(costs())
    assert len(lines) == 7 and "the choice is not resampled" in lines[6]
    assert "saves 30.0 % [20.0, 40.0] of the best single target's cost" in lines[0]
    assert "with the encoder" in lines[0] and "-1.0 points" in lines[0]
    assert "is better than expecting median lengths in saving at equal accuracy" in lines[3]
    assert "is worse than expecting median lengths in saving against" in lines[4]
    assert "not distinguishable" in lines[5]
    assert report.cost_lines([]) == []


def test_savings_are_shown_with_and_without_the_encoder():
    assert len(report.saving_rows(costs())) == 6
    table = report.saving_table(costs())
    assert table["saving, encoder included"].tolist() == ["30.0 % [20.0, 40.0]"] * 3
    [line] = report.error_table(costs()).to_dict("records")
    assert line["predicted - mean"] == "-10.0 points [-20.0, +0.0]"


def test_budgets_that_are_overspent_beyond_chance_are_counted():
    rows = []
    for share, bounds in ((25, (1.2, 1.1, 1.3)), (50, (1.05, 0.9, 1.2))):
        name = f"budget at {share} % of the range, median lengths"
        rows += [row(BUDGET, name, 0.002), row(SPENT, name, *bounds), row("accuracy", name, 0.5)]
    [line] = report.budget_lines(rows)
    assert "1 of 2 budgets are overspent" in line and "120.0 % [110.0, 130.0]" in line
    assert report.budget_table(rows)["USD per 1,000 queries"].tolist() == ["2", "2"]


def test_where_nothing_is_answered_accuracy_is_undefined():
    rows = [row(ANSWERED, "90 % wanted", 0.0, 0.0, 0.0), row(AMONG_ANSWERED, "90 % wanted", np.nan)]
    assert report.abstention_table(rows)[AMONG_ANSWERED].tolist() == ["undefined"]
