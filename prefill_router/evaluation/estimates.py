"""What every evaluation returns: estimates with intervals, as rows of one table."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import Interval
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
