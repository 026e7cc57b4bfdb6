"""What transfer says, as a table and sentences: from rows alone, this run's or published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from prefill_router.evaluation.estimates import Estimate, pick
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.transfer import LEFT_OUT, LOST, SEEN
from prefill_router.report import format_interval, headline, verdict

SCALES = {"AUC": ("value", "difference"), "gap closed": ("%", "points")}
"""How a metric is written, and how a difference of it."""


def transfer_table(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return what each router reaches on kinds of queries that it has seen, and on ones left out.

    Parameters
    ----------
    rows : sequence of Estimate
        From `transfer`; others are left out.

    Returns
    -------
    pandas.DataFrame
        A row for each kind left out and router: ``left out``, ``router``, and for AUC and gap
        closed the columns seen in training, left out and lost.
    """
    places = [(metric, way) for metric in SCALES for way in (SEEN, LEFT_OUT, LOST)]
    columns = [f"{metric}, {way}" for metric, way in places]
    lines = []
    for kind, router in _compared(rows):
        found = (pick(rows, metric, router, way, kind) for metric, way in places)
        shown = (format_interval(row, SCALES[row.metric][0]) for row in found)
        lines.append([kind, router, *shown])
    return pd.DataFrame(lines, columns=["left out", "router", *columns])


def transfer_lines(rows: Sequence[Estimate]) -> list[str]:
    """Return for each kind left out what `PRIMARY` loses by it, and what it still reaches."""
    lines = []
    for kind, router in _compared(rows):
        if router != PRIMARY:
            continue
        names = f"{router} that has seen a {kind}", "one that has not"
        for metric, (_, scale) in SCALES.items():
            lines.append(verdict(pick(rows, metric, router, LOST, kind), *names, metric, scale))
        reached = pick(rows, "gap closed", router, LEFT_OUT, kind)
        said = f"On queries of a {kind} left out, {router}"
        lines.append(headline(replace(reached, router=said, split="test")))
    return lines


def _compared(rows: Sequence[Estimate]) -> list[tuple[str, str]]:
    """Return the kinds left out, each with every router, in their order."""
    lost = (row for row in rows if (row.metric, row.target) == ("AUC", LOST))
    return [(row.split, row.router) for row in lost]
