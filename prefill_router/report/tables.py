"""Tables and sentences of results: this run's or published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prefill_router.evaluation.results import select
from prefill_router.evaluation.sentences import format_interval
from prefill_router.evaluation.significance import ALPHA

MISSING = "–"


def results_table(
    frame: pd.DataFrame, metrics: Mapping[str, str], by: str = "router"
) -> pd.DataFrame:
    """Return one line a router: its metrics with intervals.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results, at most one of each metric and router; see `select`.
    metrics : mapping of metric -> scale
        Scales as for `format_interval`, or a format specification such as ``".3f"`` for numbers
        without interval. A metric that no router has gets no column.
    by : str, default "router"
        The column that lines are named by, in its order: "versus" for the differences of one
        router, "target" or "encoder".
    """
    columns: dict[str, list[str]] = {by: frame[by].drop_duplicates().tolist()}
    for metric, scale in metrics.items():
        rows = frame[frame["metric"] == metric].set_index(by)
        if len(rows):
            columns[metric] = [
                _written(rows.loc[name], scale) if name in rows.index else MISSING
                for name in columns[by]
            ]
    return pd.DataFrame(columns)


def holm_summary(frame: pd.DataFrame, primary: str) -> str:
    """Return which routers `primary` differs from at `ALPHA` after Holm's correction.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results with "p-value (Holm)" of the primary versus each other router, and their
        "accuracy": without headroom, gap closed is undefined.
    primary : str
    """
    p = select(frame, metric="p-value (Holm)", router=primary, versus=None)
    accuracy = select(frame, metric="accuracy", split="test").set_index("router")["estimate"]
    lead = accuracy[primary] - accuracy[p["versus"]].to_numpy()
    differs = (p["estimate"] <= ALPHA).to_numpy()
    better, worse, same = (
        _listed(p["versus"][which].tolist())
        for which in (differs & (lead > 0), differs & (lead <= 0), ~differs)
    )
    said = f"After Holm's correction (level {ALPHA:g}), {primary} is better than {better}, "
    return said + f"worse than {worse}, and not distinguishable from {same}."


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{'; '.join(names[:-1])} and {names[-1]}"


def _written(row: pd.Series, scale: str) -> str:
    if scale.startswith("."):
        return MISSING if np.isnan(row.estimate) else format(row.estimate, scale)
    return format_interval(row, scale)
