"""The layouts a label table may have, all brought to one: a row per (query, target), checked."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import fingerprint

QUERY = ["query_id", "question", "benchmark"]
OPTIONAL = ["group", "split"]
AMOUNTS = ["output_tokens", "cost_usd"]
ROW = "row in table"  # no name a target would have
PARTS = ("train", "validation", "test")
MISSING = {"", "nan", "na", "n/a", "null", "none", "<na>"}
AMOUNT = "a number that is not negative (or nothing)"


def normalise(text: str) -> str:
    """Return `text` as it is compared: Unicode NFC, runs of whitespace as one space.

    Case is kept: questions that differ in case are different questions.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def to_long(table: pd.DataFrame, name: str, targets: Sequence[str] = ()) -> pd.DataFrame:
    """Bring a label table of any recognised layout to the long one, with every cell checked.

    Parameters
    ----------
    table : pandas.DataFrame
        Text cells, as `prefill_router.labels.tables.read_table` returns them. It is *long*
        (`query_id`, `question`, `benchmark`, `model`, `is_correct`), *wide* (`query_id`,
        `question`, `benchmark` and a column a target) or the *toolkit*'s (`question`, `model`,
        `isCorrect`). Optional columns: `group`, `split`; also, where not wide, `output_tokens`,
        `cost_usd`.
    name : str
        What to call the table in an error.
    targets : sequence of str
        The columns of a wide table that are targets; none means all that are left.

    Returns
    -------
    pandas.DataFrame
        `row in table` (1 is the first after the header), `query_id`, `question`, `benchmark`,
        `model`, `is_correct`, `output_tokens`, `cost_usd` (float64, NaN where missing) and, if
        given, `group` and `split`.

    Raises
    ------
    InputError
        If a column is missing, a cell is empty that must not be, or holds what it cannot.
    """
    table = table.assign(**{ROW: range(1, len(table) + 1)})
    if "isCorrect" in table:
        table = _from_toolkit(table, name)
    elif "model" in table or difflib.get_close_matches("is_correct", table, cutoff=0.8):
        require(table, [*QUERY, "model", "is_correct"], name, "a long label table")
    else:
        table = _from_wide(table, name, targets)
    for column in [*QUERY, "model"]:
        require_filled(table, column, name)
    for column, read, expected in (
        ("is_correct", _answer, "0 or 1 (or nothing, where it was never asked)"),
        ("output_tokens", amount, AMOUNT),
        ("cost_usd", amount, AMOUNT),
        ("split", _part, f"one of {', '.join(PARTS)}"),
    ):
        if column in table:
            table[column] = parsed(table, column, read, expected, name, ["query_id", "model"])
        elif column in AMOUNTS:
            table[column] = math.nan
    optional = [column for column in OPTIONAL if column in table]
    return table[[ROW, *QUERY, "model", "is_correct", *AMOUNTS, *optional]]


def one_per_query(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Reduce a long table to one row per query, with its normalised question in `text`.

    Raises
    ------
    InputError
        If two rows of a query differ in question, benchmark, group or split.
    """
    described = ["question", "benchmark", *(column for column in OPTIONAL if column in table)]
    queries = table.drop_duplicates(["query_id", *described])
    queries = queries.assign(text=queries["question"].map(normalise))
    for column in ["text", *described[1:]]:
        variants = queries.drop_duplicates(["query_id", column])
        again = variants.duplicated("query_id")
        if again.any():
            query_id = variants.loc[again, "query_id"].iloc[0]
            rows = variants.loc[variants["query_id"] == query_id, ROW]
            what = "question" if column == "text" else column
            raise InputError(
                f"{name}: query {query_id!r} has a different {what} in row {rows.iloc[1]} than in "
                f"row {rows.iloc[0]}; give different queries different ids."
            )
    return queries.drop_duplicates("query_id")


def require(table: pd.DataFrame, columns: Sequence[str], name: str, what: str) -> None:
    """Raise InputError where a column is missing that `what` needs."""
    for column in columns:
        if column not in table:
            found = [given for given in table if given != ROW]
            raise InputError(
                f"{name} has no column {column!r}, which {what} needs; its columns are "
                f"{', '.join(found)}.{did_you_mean(column, found)}"
            )


def require_filled(table: pd.DataFrame, column: str, name: str) -> None:
    """Raise InputError where a cell of a column is empty."""
    empty = table[column].str.strip() == ""
    if empty.any():
        row = table.loc[empty, ROW].iloc[0]
        raise InputError(f"{name}, row {row}: {column!r} is empty; fill it in or drop the row.")


def parsed(
    table: pd.DataFrame,
    column: str,
    read: Callable[[str], object],
    expected: str,
    name: str,
    keys: Sequence[str],
) -> np.ndarray:
    """Return what `read` makes of a column's cells.

    Raises
    ------
    InputError
        Where `read` returns None; the message names the row, its `keys` and what was `expected`.
    """
    codes, texts = pd.factorize(table[column])
    values = [read(text) for text in texts]
    for code, value in enumerate(values):
        if value is None:
            bad = table.iloc[int((codes == code).argmax())]
            which = ", ".join(f"{key} {bad[key]!r}" for key in keys)
            raise InputError(
                f"{name}, row {bad[ROW]} ({which}): {column} is {texts[code]!r}; it must be "
                f"{expected}."
            )
    return np.array(values)[codes]


def amount(text: str) -> float | None:
    """Return the number that is not negative in `text`: NaN if missing, None if there is none."""
    if text.strip().lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _answer(text: str) -> float | None:
    value = {"true": 1.0, "false": 0.0}.get(text.strip().lower(), amount(text))
    return value if value in (0, 1) or (value is not None and math.isnan(value)) else None


def _part(text: str) -> str | None:
    return text.strip() if text.strip() in PARTS else None


def _from_toolkit(table: pd.DataFrame, name: str) -> pd.DataFrame:
    require(table, ["question", "model"], name, "the toolkit's label table")
    table = table.rename(columns={"isCorrect": "is_correct"})
    if "query_id" not in table:
        names = {text: fingerprint(normalise(text)) for text in table["question"].unique()}
        table["query_id"] = table["question"].map(names)
    return table if "benchmark" in table else table.assign(benchmark="all")


def _from_wide(table: pd.DataFrame, name: str, targets: Sequence[str]) -> pd.DataFrame:
    require(table, QUERY, name, "a wide label table")
    kept = [ROW, *QUERY, *(column for column in OPTIONAL if column in table)]
    others = [column for column in table if column not in kept]
    for target in targets:
        if target not in others:
            raise InputError(f"{name} has no target {target!r}.{did_you_mean(target, others)}")
    return table.melt(kept, list(targets) or others, var_name="model", value_name="is_correct")
