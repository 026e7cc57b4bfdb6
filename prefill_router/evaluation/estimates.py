"""What every evaluation returns: estimates with intervals, as rows of one table."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import Interval
from prefill_router.evaluation.results import results
from prefill_router.storage import read_json, write_json


@dataclass(frozen=True)
class Estimate:
    """One result: a metric of a router on a split, with its 95 % interval.

    `target` is empty where the metric is not about one target; `n` counts the queries it rests on;
    of rank correlations the layers, and of counts nothing.
    """

    metric: str
    router: str
    target: str
    split: str
    estimate: float
    lower: float
    upper: float
    n: int


def to_frame(estimates: Sequence[Estimate]) -> pd.DataFrame:
    """Return one row an estimate, with the fields of `Estimate` as columns."""
    return pd.DataFrame(
        [asdict(estimate) for estimate in estimates], columns=list(Estimate.__dataclass_fields__)
    )


def write_metrics(path: str | os.PathLike, estimates: Sequence[Estimate]) -> None:
    """Write estimates as a JSON list of rows, atomically; what is undefined becomes null."""
    rows = [asdict(estimate) for estimate in estimates]
    write_json(path, [{k: None if v != v else v for k, v in row.items()} for row in rows])


def read_metrics(path: str | os.PathLike) -> list[Estimate]:
    """Read what `write_metrics` wrote."""
    rows = [{k: math.nan if v is None else v for k, v in row.items()} for row in read_json(path)]
    return [Estimate(**row) for row in rows]


def find(
    estimates: Sequence[Estimate],
    metric: str,
    router: str,
    target: str = "",
    split: str | None = None,
) -> Estimate | None:
    """Return the first estimate of a metric, router and target, of any split by default.

    None if there is none; see `pick` where there must be one.
    """
    wanted = (metric, router, target)
    found = (row for row in estimates if (row.metric, row.router, row.target) == wanted)
    return next((row for row in found if split in (None, row.split)), None)


def pick(
    estimates: Sequence[Estimate],
    metric: str,
    router: str,
    target: str = "",
    split: str | None = None,
) -> Estimate:
    """Return what `find` does.

    Raises
    ------
    InputError
        If there is no such estimate.
    """
    found = find(estimates, metric, router, target, split)
    if found is None:
        named = ", ".join(filter(None, (metric, router, target, split)))
        raise InputError(f"There is no result of {named}.")
    return found


def rows_of(
    metric: str,
    labels: Sequence[tuple[str, str]],
    found: Sequence[Interval],
    split: str,
    n: int | Sequence[int],
) -> list[Estimate]:
    """Return one estimate for each (router, target) in `labels`, with its interval and count."""
    counts = [n] * len(labels) if isinstance(n, int) else n
    return [
        Estimate(metric, router, target, split, x.estimate, x.lower, x.upper, count)
        for (router, target), x, count in zip(labels, found, counts, strict=True)
    ]


def as_results(estimates: Sequence[Estimate] | pd.DataFrame) -> pd.DataFrame:
    """Return estimates as tidy results, for callers that have not moved yet."""
    if isinstance(estimates, pd.DataFrame):
        return estimates
    rows = []
    for row in map(asdict, estimates):
        if row["metric"].endswith(" difference") and " - " in row["router"]:
            row["metric"] = row["metric"].removesuffix(" difference")
            row["router"], row["versus"] = row["router"].split(" - ", 1)
        rows.append(row)
    return results(rows)


def as_estimates(rows: Sequence[Estimate] | pd.DataFrame) -> list[Estimate]:
    """Return tidy results as estimates, for what has not moved yet: names as they used to be."""
    if not isinstance(rows, pd.DataFrame):
        return list(rows)
    found = []
    for row in rows.itertuples():
        metric, router = row.metric, row.router
        if row.versus:
            metric, router = f"{metric} difference", f"{router} - {row.versus}"
        more = [str(row.encoder), str(row.pooling)]
        more += [f"{name} {value:g}" for name in ("layer", "seed", "x")
                 if pd.notna(value := getattr(row, name))]  # fmt: skip
        n = 0 if pd.isna(row.n) else int(row.n)
        router = ", ".join(filter(None, [router, *more]))
        found.append(
            Estimate(metric, router, row.target, row.split, row.estimate, row.lower, row.upper, n)
        )
    return found
