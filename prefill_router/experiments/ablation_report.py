"""Sentences, tables and a figure from the rows of the ablations alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import norm

from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.significance import ALPHA, holm
from prefill_router.experiments.ablation_results import KEPT, STOPPED, TRIED
from prefill_router.experiments.ablations import AT_RANDOM, FIRST
from prefill_router.experiments.routers import PRIMARY
from prefill_router.report import format_interval, plotting, verdict

SCALES = {
    "gap closed": ("%", "points"),
    "AUC": ("value", "difference"),
    "Brier": ("value", "difference"),
}
"""How each metric is written, and its differences; see `report.format_interval`."""
SEED = ", seed "
NORMAL = 1.96


def changes(rows: Sequence[Estimate], metric: str, part: str) -> list[Estimate]:
    """Return the differences to the recipe, named by what was changed, kind by kind."""
    ending = f" - {PRIMARY}"
    found = [
        Estimate(**{**vars(row), "router": row.router.removesuffix(ending)})
        for row in rows
        if (row.metric, row.split) == (f"{metric} difference", part) and SEED not in row.router
    ]
    kinds = list(dict.fromkeys(_kind(row) for row in found))
    return sorted(found, key=lambda row: kinds.index(_kind(row)))


def by_seed(rows: Sequence[Estimate], metric: str, part: str) -> dict[str, list[float]]:
    """Return the differences that other seeds make, by what was changed."""
    result: dict[str, list[float]] = {}
    for row in rows:
        if (row.metric, row.split) == (f"{metric} difference", part) and SEED in row.router:
            result.setdefault(row.router.split(SEED)[0], []).append(row.estimate)
    return result


def seed_error(row: Estimate, rows: Sequence[Estimate]) -> float:
    """Return the standard error that seeds add to a difference, NaN where no repeats say it.

    That of one network alone is the standard deviation over seeds; an average of m networks has
    its m-th part in variance, as if networks differed independently. What only averages the
    recipe's networks otherwise is itself repeated, so that its deviation stands as it is.
    """
    values = by_seed(rows, row.metric.removesuffix(" difference"), row.split).get(row.router, [])
    if len(values) < 2:
        return float("nan")
    alike = row.router in (FIRST, AT_RANDOM)
    return float(np.std(values, ddof=1) / np.sqrt(1 if alike else count(rows, KEPT)))


def standard_error(row: Estimate, rows: Sequence[Estimate]) -> float:
    """Return the standard error of a difference, that over seeds included where it is known.

    The bootstrap's, a quarter of its interval's width or so, and that of the seeds add as squares.
    """
    bootstrap = (row.upper - row.lower) / (2 * NORMAL)
    return float(np.hypot(bootstrap, np.nan_to_num(seed_error(row, rows))))


def holds_for_other_seeds(row: Estimate, rows: Sequence[Estimate]) -> bool:
    """Return whether a difference is clear of 0 when the spread over seeds is counted too.

    Not so of a change without repeats, whose spread over seeds nobody knows.
    """
    known = not np.isnan(seed_error(row, rows))
    return known and abs(row.estimate) > NORMAL * standard_error(row, rows)


def count(rows: Sequence[Estimate], what: str) -> int:
    """Return a count that the rows state of the recipe."""
    return int(next(row.estimate for row in rows if row.metric == what))


def is_clear(row: Estimate) -> bool:
    """Return whether the interval of a difference leaves 0 out."""
    return row.lower > 0 or row.upper < 0


def verdicts(rows: Sequence[Estimate], metric: str, part: str, kind: str) -> list[str]:
    """Return one sentence for each change of a kind, such as ``"dropout"``."""
    sentences = []
    for row in changes(rows, metric, part):
        if _kind(row) != kind:
            continue
        scale = SCALES[metric][1]
        said = verdict(row, row.router, "the recipe", metric, scale, metric != "Brier")
        error = seed_error(row, rows)
        if is_clear(row) and not np.isnan(error):
            holds = holds_for_other_seeds(row, rows)
            said += " It holds" if holds else " It may not hold"
            said += " when the spread over seeds is counted too."
        sentences.append(said)
    return sentences


def kinds(rows: Sequence[Estimate]) -> list[str]:
    """Return the kinds of change, in their order."""
    return list(dict.fromkeys(_kind(row) for row in changes(rows, "AUC", "test")))


def what_matters(rows: Sequence[Estimate], metric: str, part: str) -> str:
    """Return which changes make a difference that holds for other queries and other seeds."""
    found = changes(rows, metric, part)
    errors = [standard_error(row, rows) for row in found]
    z = [abs(row.estimate) / max(e, 1e-300) for row, e in zip(found, errors, strict=True)]
    corrected = holm(np.nan_to_num(2 * norm.sf(z), nan=1))
    clear = [r for r, p in zip(found, corrected, strict=True) if is_clear(r) and p <= ALPHA]
    once = [row for row in clear if np.isnan(seed_error(row, rows))]
    firm = [row for row in clear if row not in once]

    def listed(among: Sequence[Estimate], higher: bool) -> str:
        return "; ".join(row.router for row in among if (row.lower > 0) == higher) or "none"

    better = metric != "Brier"
    said = (
        f"{metric} on {part} queries, over queries and seeds together and corrected by Holm for "
        f"all {len(found)} changes - better than the recipe: {listed(firm, better)}. Worse than "
        f"the recipe: {listed(firm, not better)}."
    )
    if once:
        said += (
            f" Over queries alone, for want of other seeds, corrected likewise - better: "
            f"{listed(once, better)}; worse: {listed(once, not better)}."
        )
    return said + " Any other change cannot be told from the recipe."


def multiplicity(rows: Sequence[Estimate], metric: str, part: str) -> str:
    """Return how many differences are clear of 0, beside how many chance alone would make so."""
    found = changes(rows, metric, part)
    apart = [row for row in found if is_clear(row)]
    better, n = sum((row.lower > 0) == (metric != "Brier") for row in apart), len(apart)
    return (
        f"{count(rows, TRIED)} configurations were tried, the recipe among them. In {metric} on "
        f"{part} queries, {n} of {len(found)} differ from it by more than their 95 % intervals "
        f"({better} better, {n - better} worse); were none really different, about "
        f"{0.05 * len(found):.0f} would seem so."
    )


def chosen_on_validation(rows: Sequence[Estimate], metric: str) -> str:
    """Return what would have been gained on test by the change that validation likes best."""
    sign = -1 if metric == "Brier" else 1
    best = max(changes(rows, metric, "validation"), key=lambda row: sign * row.estimate)
    if not sign * best.estimate > 0:
        return f"On validation queries no change has a better {metric} than the recipe."
    test = next(row for row in changes(rows, metric, "test") if row.router == best.router)
    scale = SCALES[metric][1]
    return (
        f"By {metric} on validation queries ({format_interval(best, scale)}) one would choose "
        f"{best.router!r}. On test queries, "
        + verdict(test, "it", "the recipe", metric, scale, sign > 0)
    )


def summary(rows: Sequence[Estimate], part: str) -> pd.DataFrame:
    """Return a table: every configuration's metrics with intervals, and its late networks."""
    names = [PRIMARY, *(row.router for row in changes(rows, "AUC", part))]
    found = {(row.metric, row.router): row for row in rows if row.split == part}
    late = {row.router: row.estimate for row in rows if row.metric == STOPPED}
    return pd.DataFrame(
        [
            [
                name,
                *(format_interval(found[metric, name], SCALES[metric][0]) for metric in SCALES),
                late.get(name, float("nan")),
            ]
            for name in names
        ],
        columns=["configuration", *SCALES, STOPPED],
    )


def differences(ax: Axes, rows: Sequence[Estimate], metric: str, part: str) -> Axes:
    """Draw every change's difference to the recipe, with its interval, and seeds as small dots."""
    found, percent = changes(rows, metric, part), metric == "gap closed"
    unit = " (points)" if percent else ""
    plotting.forest(ax, found, f"difference in {metric}{unit}", percent)
    repeated = by_seed(rows, metric, part)
    for place, row in enumerate(found):
        values = (100 if percent else 1) * np.array(repeated.get(row.router, []))
        look = {"s": 9, "color": "0.55", "linewidth": 0, "zorder": 1}
        ax.scatter(values, np.full(len(values), place + 0.25), **look)
    starts = [i for i in range(1, len(found)) if _kind(found[i]) != _kind(found[i - 1])]
    for start in starts:
        ax.axhline(start - 0.5, color="0.85", linewidth=1, zorder=0)
    ax.set_ylabel("what is changed")
    return ax


def _kind(row: Estimate) -> str:
    return row.router.split(":")[0]
