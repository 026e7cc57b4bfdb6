"""Tables and sentences of results, made from rows of estimates alone: this run's or published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prefill_router.evaluation.estimates import Estimate, find, pick
from prefill_router.evaluation.significance import ALPHA
from prefill_router.report import format_interval, verdict

MISSING = "–"


def routers_of(rows: Sequence[Estimate], metric: str, split: str = "test") -> list[str]:
    """Return the routers with a row of that metric, in their order."""
    found = (r.router for r in rows if (r.metric, r.target, r.split) == (metric, "", split))
    return list(dict.fromkeys(found))


def results_table(
    rows: Sequence[Estimate],
    routers: Sequence[str],
    metrics: Mapping[str, str],
    split: str = "test",
) -> pd.DataFrame:
    """Return one line a router: its metrics with intervals.

    Parameters
    ----------
    rows : sequence of Estimate
    routers : sequence of str
    metrics : mapping of metric -> scale
        Scales as for `format_interval`, or a format specification such as ``".3f"`` for numbers
        without interval. A metric that no router has gets no column.
    split : str, default "test"
    """
    columns: dict[str, list[str]] = {"router": list(routers)}
    for metric, scale in metrics.items():
        found = [find(rows, metric, router, split=split) for router in routers]
        if any(found):
            columns[metric] = [MISSING if row is None else _written(row, scale) for row in found]
    return pd.DataFrame(columns)


def differences_table(rows: Sequence[Estimate], primary: str) -> pd.DataFrame:
    """Return one line a router that is compared with `primary`: by how much, and how surely.

    Columns: the difference in gap closed with its interval, its p-value before and after Holm's
    correction, and the difference in gap closed that these queries find with a probability of 80 %.
    """
    pairs = [name for name in routers_of(rows, "p-value") if name.startswith(f"{primary} - ")]
    headroom = pick(rows, "headroom", "oracle", split="test")
    lines = []
    for pair in pairs:
        difference = pick(rows, "gap closed difference", pair, split="test")
        power = pick(rows, "detectable difference", pair).estimate
        lines.append(
            {
                "other router": pair.removeprefix(f"{primary} - "),
                "difference in gap closed": format_interval(difference, "points"),
                "p": f"{pick(rows, 'p-value', pair).estimate:.4f}",
                "p (Holm)": f"{pick(rows, 'p-value (Holm)', pair).estimate:.4f}",
                "detectable": f"{100 * power / headroom.estimate:.1f} points"
                if headroom.estimate > 0
                else MISSING,
            }
        )
    return pd.DataFrame(lines)


def comparison_sentence(rows: Sequence[Estimate], a: str, b: str) -> str:
    """Return the verdict on the difference in gap closed of `a` minus `b`, by Holm's p if given."""
    pair = f"{a} - {b}"
    difference, corrected = (
        pick(rows, "gap closed difference", pair, split="test"),
        find(rows, "p-value (Holm)", pair),
    )
    p = None if corrected is None else corrected.estimate
    return verdict(difference, a, b, "gap closed", corrected_p=p)


def seed_sentence(rows: Sequence[Estimate], router: str, metric: str) -> str:
    """Return by how much single networks deviate in a share, which no interval here covers."""
    found = find(rows, f"deviation between seeds, {metric}", router, split="test")
    if found is None or np.isnan(found.estimate):
        return f"How much single networks of {router} deviate is not known."
    return (
        f"Between single networks of {router}, {metric} deviates by {100 * found.estimate:.1f} "
        "points; neither the interval nor the p-value allows for that."
    )


def holm_summary(rows: Sequence[Estimate], primary: str) -> str:
    """Return which routers `primary` differs from at `ALPHA` after Holm's correction."""
    better, worse, same = [], [], []
    for pair in routers_of(rows, "p-value (Holm)"):
        if not pair.startswith(f"{primary} - "):
            continue
        other = pair.removeprefix(f"{primary} - ")
        if pick(rows, "p-value (Holm)", pair).estimate > ALPHA:
            same.append(other)
        else:
            # by accuracy: without headroom, gap closed is undefined
            ours, theirs = (pick(rows, "accuracy", n, split="test") for n in (primary, other))
            (better if ours.estimate > theirs.estimate else worse).append(other)
    said = f"After Holm's correction (level {ALPHA:g}), {primary} is better than "
    said += f"{_listed(better)}, worse than {_listed(worse)}, and not distinguishable from "
    return said + f"{_listed(same)}."


def win_rate_matrix(rows: Sequence[Estimate]) -> pd.DataFrame:
    """Return how often the row's router beats the column's where exactly one of them is right."""
    pairs = {tuple(row.router.split(" over ")): row for row in rows if row.metric == "win rate"}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    matrix = pd.DataFrame(np.nan, index=names, columns=names)
    for (one, other), row in pairs.items():
        matrix.loc[one, other], matrix.loc[other, one] = row.estimate, 1 - row.estimate
    return matrix


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{'; '.join(names[:-1])} and {names[-1]}"


def _written(row: Estimate, scale: str) -> str:
    if scale.startswith("."):
        return MISSING if np.isnan(row.estimate) else format(row.estimate, scale)
    return format_interval(row, scale)
