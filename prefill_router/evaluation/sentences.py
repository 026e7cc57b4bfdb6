"""Sentences made from results, so that no prose contradicts the numbers of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.bootstrap import ALPHA
from prefill_router.policy import ROUNDING

UNDEFINED = "undefined"
QUERIES = 1000
"""Costs are shown for so many."""
# By scale a factor, the digits, their format and the unit; what is signed is a difference.
SCALES = {
    "%": (100, 1, ".{}f", " %"),
    "points": (100, 1, "+.{}f", " points"),
    "value": (1, 3, ".{}f", ""),
    "difference": (1, 3, "+.{}f", ""),
    "USD": (QUERIES, 3, ".{}g", " USD"),
}


Row = Any
"""Anything with `estimate`, `lower` and `upper`, such as a row of results."""


def format_interval(interval: Row, scale: str = "%") -> str:
    """Return an estimate with its interval, such as ``"45.6 % [42.1, 49.0]"``.

    Parameters
    ----------
    interval : row of results
    scale : {"%", "points", "value", "difference", "USD"}, default "%"
        A share as per cent; a difference of shares as signed percentage points; a plain number; a
        signed one; a cost per query in USD, as that of `QUERIES`.

    Returns
    -------
    str
        ``"undefined"`` for NaN.

    Raises
    ------
    InputError
        If the scale is unknown.
    """
    if scale not in SCALES:
        raise InputError(f"Unknown scale {scale!r}.{did_you_mean(scale, SCALES)}")
    factor, digits, style, unit = SCALES[scale]
    if np.isnan(interval.estimate):
        return UNDEFINED
    bounds = interval.lower, interval.upper
    if style[0] == "+" and (bounds[0] > ROUNDING or bounds[1] < -ROUNDING):
        nearest = factor * min(map(abs, bounds))  # to zero, which is not what it is shown as
        digits = min(digits + 2, max(digits, int(np.ceil(-np.log10(2 * nearest)))))
    # Adding 0.0 to what was rounded takes the sign from a zero.
    estimate, lower, upper = (
        format(factor * (round(value, 12) + 0.0), style.format(digits))
        for value in (interval.estimate, *bounds)
    )
    return f"{estimate}{unit} [{lower}, {upper}]"


def pivot(
    found: pd.DataFrame, by: Sequence[str], scales: Mapping[str, str], missing: str = ""
) -> pd.DataFrame:
    """Return one line for all results that agree in `by`, with a column for each metric there is.

    Parameters
    ----------
    found : pandas.DataFrame
        Results.
    by : sequence of str
        Their columns that name lines, in the order of the results.
    scales : mapping of metric to scale
        The metrics shown, with scales as for `format_interval`.
    missing : str, default ""
        What a cell holds for which there is no result.
    """
    found = found[found["metric"].isin([*scales])]
    lines = []
    for names, part in found.groupby([*by], sort=False):
        cells = {row.metric: format_interval(row, scales[row.metric]) for row in part.itertuples()}
        lines.append(dict(zip(by, names, strict=True)) | cells)
    metrics = [metric for metric in scales if (found["metric"] == metric).any()]
    return pd.DataFrame(lines, columns=[*by, *metrics]).fillna(missing)


def verdict(
    difference: Row,
    a: str | None = None,
    b: str | None = None,
    what: str | None = None,
    scale: str = "points",
    higher_is_better: bool = True,
    corrected_p: float | None = None,
) -> str:
    """Return the sentence that an interval of a difference allows.

    Parameters
    ----------
    difference : row of results
        Of `what`, `a` minus `b`, on paired resamples.
    a, b, what : str, optional
        What is compared, and the metric's name. Default: the row's router, versus and metric.
    scale : str, default "points"
        As in `format_interval`.
    higher_is_better : bool, default True
        False for a cost, a Brier score or a calibration error.
    corrected_p : float, optional
        The p-value of one of several comparisons after Holm's correction; above `ALPHA` nothing is
        better or worse, whatever the interval of this one alone.

    Returns
    -------
    str
        That `a` is better than `b`, worse, or not distinguishable from it, with the numbers.
    """
    a, b = difference.router if a is None else a, difference.versus if b is None else b
    what = difference.metric if what is None else what
    shown = f"{format_interval(difference, scale)}, 95 % interval"
    if corrected_p is not None:
        shown += f"; p = {corrected_p:.4f} after Holm's correction"
    low, high = difference.lower, difference.upper
    if np.isnan([difference.estimate, low, high]).any():
        return f"{a} and {b} cannot be compared in {what}: the difference is {UNDEFINED}."
    # What is equal may differ in the last digits of its mean.
    may_be_none = low <= ROUNDING and high >= -ROUNDING
    if may_be_none or (corrected_p is not None and corrected_p > ALPHA):
        return f"{a} is not distinguishable from {b} in {what} ({shown})."
    better = (low > 0) == higher_is_better
    return f"{a} is {'better' if better else 'worse'} than {b} in {what} ({shown})."


def headline(gap: Row, saving: Row | None = None) -> str:
    """Return the sentence that sums up a router.

    Parameters
    ----------
    gap : row of results
        Its gap closed.
    saving : row of results, optional
        Its cost saving against the dearest target, by the same policy. Default: costs are unknown.

    Returns
    -------
    str
    """
    n = f"n = {gap.n:,} {gap.split} queries, 95 % intervals"
    if np.isnan(gap.estimate):
        return f"There is no headroom: the best single target is as accurate as the oracle ({n})."
    start = gap.router
    if not gap.lower > 0:
        start += " does worse than" if gap.upper < 0 else " is not distinguishable from"
        start += " the best single target: it"
    said = f"{start} closes {format_interval(gap)} of the gap between the best single target and "
    said += "the oracle"
    if saving is not None:
        said += f", at a cost saving of {format_interval(saving)} against always asking the dearest"
        said += " target"
    return f"{said} ({n})."
