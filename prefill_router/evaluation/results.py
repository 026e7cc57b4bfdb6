"""Results: one tidy table of estimates with intervals, whose columns say what each row is about.

A difference is a row whose `versus` is not empty: the metric of `router` minus that of `versus`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
from pandas.api.types import is_list_like

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import read_json, write_json

VERSION = 2
TYPES = dict.fromkeys(("layer", "seed", "n"), "Int64")
TYPES |= dict.fromkeys(("x", "estimate", "lower", "upper"), "float64")


@dataclass(frozen=True)
class Quantity:
    """What a row of results is about: all columns but the estimate and its interval.

    Attributes
    ----------
    metric : str
    router : str
        What is measured: a router, a configuration, a head.
    versus : str
        What its metric is subtracted from that of `router`; empty where nothing is.
    target : str
        Empty where the metric is not about one target.
    encoder, layer, pooling, seed
        Where the metric is about one of them.
    x : float, optional
        The place on the axis of a curve: a number of labels, a draw, a size.
    split : str
        The rows it is measured on.
    n : int, optional
        How many queries it rests on; of rank correlations layers.
    """

    metric: str
    router: str = ""
    versus: str = ""
    target: str = ""
    encoder: str = ""
    layer: int | None = None
    pooling: str = ""
    seed: int | None = None
    x: float | None = None
    split: str = "test"
    n: int | None = None


*ABOUT, _ = Quantity.__dataclass_fields__
COLUMNS = [*ABOUT, "estimate", "lower", "upper", "n"]


def results(rows: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """Return results as a table with the columns `COLUMNS`, in this order and of fixed types.

    Parameters
    ----------
    rows : iterable of mappings
        One a result: "metric", "estimate", and whatever else applies.

    Raises
    ------
    InputError
        If a row has no metric, a field that no column is named after, or a value of another type.
    """
    defaults = vars(Quantity(""))
    rows = [defaults | row for row in rows]
    for name in dict.fromkeys(chain(*rows)):
        _check_column(name)
    if not all(row["metric"] for row in rows):
        raise InputError("A result has no metric; each must say what it is of.")
    types = {name: TYPES.get(name, object) for name in COLUMNS}
    try:
        return pd.DataFrame(rows, columns=COLUMNS).astype(types)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"A result holds what is not a value of its column: {error}.") from None


def counted(of: Quantity, value: float) -> dict[str, Any]:
    """Return a row for a number that is counted or set, not estimated: it has no interval."""
    return vars(of) | {"estimate": float(value)}


def select(
    frame: pd.DataFrame, *, versus: Any = "", target: Any = "", **where: Any
) -> pd.DataFrame:
    """Return the rows whose columns have the values given.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results.
    versus, target : str, list of str or None, default ""
        By default values of no single target, and no differences; None is any.
    **where
        A value by column, a list of those allowed, or None for any.

    Raises
    ------
    InputError
        If there is no such column.
    """
    for name, value in (where | {"versus": versus, "target": target}).items():
        _check_column(name)
        if value is not None:
            frame = frame[frame[name].isin(value if is_list_like(value) else [value])]
    return frame


def one(frame: pd.DataFrame, **where: Any) -> pd.Series:
    """Return the only row that `select` finds, with columns as attributes.

    Raises
    ------
    InputError
        If there is none, or there are several.
    """
    found = select(frame, **where)
    if len(found) == 1:
        return found.iloc[0]
    wanted = ", ".join(f"{name}={value!r}" for name, value in where.items())
    if found.empty:
        raise InputError(f"There is no result of {wanted}.")
    differ = [name for name in ABOUT if found[name].nunique(dropna=False) > 1]
    which = " or ".join(differ) or "of these equal rows"
    raise InputError(f"There are {len(found)} results of {wanted}; say which {which} is meant.")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return results as rows for JSON, without what does not apply; None is undefined."""
    always = ("metric", "router", "target", "split", "estimate", "lower", "upper", "n")
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{k: v for k, v in row.items() if k in always or v not in (None, "")} for row in rows]


def write_metrics(path: str | os.PathLike, frame: pd.DataFrame) -> None:
    """Write results as JSON, atomically: ``{"version": 2, "rows": [...]}``.

    Rows leave out what does not apply; an undefined estimate or bound is null.
    """
    write_json(path, {"version": VERSION, "rows": records(frame)})


def read_metrics(path: str | os.PathLike) -> pd.DataFrame:
    """Read what `write_metrics` wrote.

    Raises
    ------
    InputError
        If the file is of another version.
    """
    held = read_json(path)
    version = held.get("version") if isinstance(held, dict) else 1
    if version != VERSION:
        raise InputError(
            f"{path} holds results of version {version}, not {VERSION}; make them anew with "
            "prefill-router run."
        )
    return results(held["rows"])


def _check_column(name: str) -> None:
    if name not in COLUMNS:
        raise InputError(f"Results have no column {name!r}.{did_you_mean(name, COLUMNS)}")
