"""What a router promises, as tables and sentences: from rows alone, this run's or published."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from prefill_router.evaluation.choices import BEST
from prefill_router.evaluation.estimates import Estimate, find, pick
from prefill_router.experiments.against_single import LEAD, SAVED
from prefill_router.experiments.calibrated_predictions import (
    AFTER,
    AMONG_ANSWERED,
    ANSWERED,
    BEFORE,
)
from prefill_router.experiments.certificates import (
    CERTIFIED,
    FIRST_P,
    GROUPS,
    LOSSES,
    MEDIAN_TAU,
    REPORTING,
    TAU,
    allowed,
)
from prefill_router.experiments.spending import (
    BUDGET,
    SPENT,
)
from prefill_router.report import QUERIES, format_interval, verdict
from prefill_router.report.result_tables import MISSING, results_table, routers_of
from prefill_router.report.trends import by_number
from prefill_router.router.cost_comparison import (
    ENCODER,
    ERROR,
    MEAN,
    MEDIAN,
    PREDICTED,
    SAVING,
)

ENOUGH = 0.8
"""Share of draws in which a promise can be made with labels that are said to be enough."""
POLICIES = ("tolerance", "utility")
WAYS = (PREDICTED, MEDIAN, MEAN)


def calibration_table(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return the ECE and the Brier score of each target, before and after."""
    targets = dict.fromkeys(r.target for r in rows if r.metric == "ECE" and r.target)
    return pd.DataFrame(
        {"target": target or "mean of targets"}
        | {
            f"{metric}, {name}": format_interval(pick(rows, metric, name, target), "value")
            for metric in ("ECE", "Brier")
            for name in (BEFORE, AFTER)
        }
        for target in [*targets, ""]
    )


def calibration_line(rows: Sequence[Estimate]) -> str:
    """Return the verdict on calibration: the expected calibration error, mean of targets."""
    difference = pick(rows, "ECE difference", f"{AFTER} - {BEFORE}")
    what = "expected calibration error (mean of targets)"
    names = f"{AFTER.capitalize()} P(correct)", f"{BEFORE} P(correct)"
    return verdict(difference, *names, what, "difference", higher_is_better=False)


def guarantee_lines(rows: Sequence[Estimate]) -> list[str]:
    """Return for each loss allowed what is certified, and what it does on the other half."""
    lines = []
    for loss in LOSSES:
        name = allowed(loss)
        folds = [r for r in rows if r.metric == TAU and r.router.startswith(f"{name}, fold ")]
        if folds:
            lines.append(f"A loss of {name} allowed: {_certified(rows, folds)}{_kept(rows, loss)}")
    return lines


def _certified(rows: Sequence[Estimate], folds: Sequence[Estimate]) -> str:
    taus = [row.estimate for row in folds if not np.isnan(row.estimate)]
    groups = np.mean([pick(rows, GROUPS, row.router).estimate for row in folds])
    labels = f"{np.mean([row.n for row in folds]):,.0f} held-out queries in {groups:,.0f} groups"
    labels += " each" if len(folds) > 1 else ""
    if taus:
        each = f" in {len(taus)} of {len(folds)} folds" if len(folds) > 1 else ""
        span = f"{min(taus):g}" + (f" to {max(taus):g}" if max(taus) > min(taus) else "")
        return f"tau {span} is certified{each}, by {labels}."
    least = min(pick(rows, FIRST_P, row.router).estimate for row in folds)
    each, reason = (" in any fold", "the least p-value") if len(folds) > 1 else ("", "p")
    return f"nothing is certified{each} by {labels} ({reason} is {least:.2g}); the best single \
target is asked."


def _kept(rows: Sequence[Estimate], loss: float) -> str:
    lead = find(rows, LEAD, f"{allowed(loss)} - {BEST}", split=REPORTING)
    if lead is None or (lead.estimate, lead.lower, lead.upper) == (0, 0, 0):
        return ""
    if lead.estimate >= -loss:
        said = "within what is allowed"
        if lead.lower < -loss:
            said += ", though a larger loss cannot be excluded"
    else:
        said = "more than is allowed, " + (
            "and not by chance" if lead.upper < -loss else "though chance may explain it"
        )
    text = f" On the other half, each group counting once, its accuracy differs from the best \
single target's by {format_interval(lead, 'points')}: {said}."
    saved = find(rows, SAVED, allowed(loss), split=REPORTING)
    if saved is None:
        return text
    return f"{text} It saves {format_interval(saved)} of that target's cost."


def labels_lines(rows: Sequence[Estimate]) -> list[str]:
    """Return how many labels it takes until a promise can be made in most draws."""
    lines = []
    for name, trend in by_number(rows, CERTIFIED, "labels").items():
        shares = {number: f"{100 * row.estimate:.0f} %" for number, row in trend}
        enough = [number for number, row in trend[:-1] if row.estimate >= ENOUGH]
        if enough:
            said = f"{enough[0]:,.0f} labels are enough in {shares[enough[0]]} of the draws"
        else:
            *_, fewer, most = shares
            one = trend[-1][1].n == 1
            whole = "" if one else f" in {shares[most]} of the folds"
            certify = "certify" if trend[-1][1].estimate or not one else "do not certify"
            said = f"all {most:,.0f} labels of a test part {certify} a tolerance{whole}, "
            said += f"{fewer:,.0f} in {shares[fewer]} of the draws"
        lines.append(f"A loss of {name}: {said}.")
    return lines


def saving_rows(rows: Sequence[Estimate]) -> list[Estimate]:
    """Return the savings of policies chosen on validation queries, without and with the encoder."""
    routers = [f"{name}, {way}" for name in POLICIES for way in WAYS]
    found = (find(rows, SAVED + extra, name) for name in routers for extra in ("", ENCODER))
    return [row for row in found if row is not None]


def saving_table(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return accuracy and savings by policy and way of expecting costs."""
    routers = [name for name in routers_of(rows, SAVED) if name.startswith(POLICIES)]
    columns = {"accuracy": "%", SAVED: "%", SAVED + ENCODER: "%", SAVING: "%"}
    table = results_table(rows, routers, columns | {SAVING + ENCODER: "%"})
    return table.rename(columns={SAVED: "saving", SAVED + ENCODER: "saving" + ENCODER})


def cost_lines(rows: Sequence[Estimate]) -> list[str]:
    """Return the verdicts on predicting lengths: on the curves, and for policies fixed before.

    And, of the latter, what they save and lose against the best single target.
    """
    lines = []
    for name in POLICIES:
        for way in WAYS:
            saved = find(rows, SAVED, f"{name}, {way}")
            if saved is not None:
                lead = pick(rows, LEAD, f"{name}, {way} - {BEST}")
                whole = find(rows, SAVED + ENCODER, f"{name}, {way}")
                read = "" if whole is None else f"{format_interval(whole)} with the encoder, "
                lines.append(
                    f"{name.capitalize()}, {way}, chosen on validation: saves "
                    f"{format_interval(saved)} of the best single target's cost, {read}at an "
                    f"accuracy that differs by {format_interval(lead, 'points')}."
                )
    for name, other in product(POLICIES, (MEAN, MEDIAN)):
        pair = f"{name}, {PREDICTED} - {name}, {other}"
        read_off = find(rows, SAVING + " difference", f"{name}, {PREDICTED} - {other}")
        if read_off is None:
            continue
        names = f"expecting {PREDICTED}", f"expecting {other}"
        for row, what, scope in (
            (read_off, SAVING, "read off the curves"),
            (pick(rows, SAVED + " difference", pair), SAVED, "chosen on validation"),
            (pick(rows, LEAD, pair), "accuracy", "chosen on validation"),
        ):
            lines.append(f"{name.capitalize()}, {scope}: {verdict(row, *names, what)}")
    if lines:
        lines.append(
            "Policies chosen on validation are compared at the tolerance or lambda chosen; the "
            "choice is not resampled."
        )
    return lines


def error_table(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return how far expected costs are off, by target and way of expecting them."""
    targets = dict.fromkeys(r.target for r in rows if r.metric == ERROR)
    columns = {way: (ERROR, way) for way in WAYS}
    columns["predicted - mean"] = (f"{ERROR} difference", f"{PREDICTED} - {MEAN}")
    return pd.DataFrame(
        {"target": target}
        | {
            title: format_interval(pick(rows, *place, target), "points" if "-" in title else "%")
            for title, place in columns.items()
        }
        for target in targets
    )


def budget_table(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return budgets, what was really spent of them, and the accuracy reached."""
    routers = routers_of(rows, SPENT)
    table = results_table(rows, routers, {SPENT: "%", "accuracy": "%"})
    limits = [f"{QUERIES * pick(rows, BUDGET, name).estimate:.3g}" for name in routers]
    table.insert(1, f"USD per {QUERIES:,} queries", limits)
    return table


def budget_lines(rows: Sequence[Estimate]) -> list[str]:
    """Return for each way of expecting costs how many budgets were kept on test."""
    lines = []
    for way in WAYS:
        spent = [r for r in rows if r.metric == SPENT and r.router.endswith(way)]
        if spent:
            over = [row for row in spent if row.lower > 1]
            most = max(spent, key=lambda row: row.estimate)
            lines.append(
                f"Expecting {way}, {len(over)} of {len(spent)} budgets are overspent on test "
                f"queries beyond chance; at most {format_interval(most)} of one is spent."
            )
    return lines


def abstention_table(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return the share answered, and the accuracy among those, for each accuracy wanted."""
    routers = routers_of(rows, ANSWERED)
    return results_table(rows, routers, {ANSWERED: "%", AMONG_ANSWERED: "%"})


def labels_table(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return how often a promise can be made by loss allowed and number of labels."""
    lines = []
    for name, trend in by_number(rows, CERTIFIED, "labels").items():
        for number, row in trend:
            tau = find(rows, MEDIAN_TAU, row.router)
            lines.append(
                {
                    "loss": name,
                    "labels": f"{number:,.0f}",
                    "certified": f"{100 * row.estimate:.0f} %",
                    "draws": row.n,
                    "tau (median of those)": MISSING if tau is None else f"{tau.estimate:g}",
                }
            )
    return pd.DataFrame(lines)
