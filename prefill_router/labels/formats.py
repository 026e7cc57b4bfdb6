"""The layouts a label table may have, all brought to one: a row per (query, target), checked."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Callable, Sequence

import pandas as pd

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import fingerprint

QUERY = ["query_id", "question", "benchmark"]
OPTIONAL = ["group", "split"]
AMOUNTS = ["output_tokens", "cost_usd"]
ROW = "row in table"  # no name a target would have
PARTS = ("train", "validation", "test")
MISSING = {"", "nan", "na", "n/a", "null", "none", "<na>"}


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
        _require(table, [*QUERY, "model", "is_correct"], name, "long")
    else:
        table = _from_wide(table, name, targets)
    optional = [column for column in OPTIONAL if column in table]
    for column in [*QUERY, "model"]:
        empty = table[column].str.strip() == ""
        if empty.any():
            row = table.loc[empty, ROW].iloc[0]
            raise InputError(f"{name}, row {row}: {column!r} is empty; fill it in or drop the row.")
    _parse(table, "is_correct", _answer, "0 or 1 (or nothing, where it was never asked)", name)
    for column in AMOUNTS:
        if column in table:
            _parse(table, column, amount, "a number that is not negative (or nothing)", name)
        else:
            table[column] = math.nan
    if "split" in table:
        _parse(table, "split", _part, f"one of {', '.join(PARTS)}", name)
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
    return None if value is None or value > 1 or 0 < value < 1 else value


def _part(text: str) -> str | None:
    return text.strip() if text.strip() in PARTS else None


def _parse(
    table: pd.DataFrame, column: str, read: Callable[[str], object], expected: str, name: str
) -> None:
    codes, texts = pd.factorize(table[column])
    values = [read(text) for text in texts]
    for code, value in enumerate(values):
        if value is None:
            bad = table.iloc[int((codes == code).argmax())]
            raise InputError(
                f"{name}, row {bad[ROW]} (query {bad['query_id']!r}, target {bad['model']!r}): "
                f"{column} is {texts[code]!r}; it must be {expected}."
            )
    table[column] = pd.Series(values, dtype=object if read is _part else float).to_numpy()[codes]


def _require(table: pd.DataFrame, columns: Sequence[str], name: str, layout: str) -> None:
    for column in columns:
        if column not in table:
            found = [given for given in table if given != ROW]
            close = difflib.get_close_matches(column, found, n=1)
            hint = f" Is it {close[0]!r}? Rename it." if close else ""
            raise InputError(
                f"{name} has no column {column!r}, which a {layout} label table needs; "
                f"its columns are {', '.join(found)}.{hint}"
            )


def _from_toolkit(table: pd.DataFrame, name: str) -> pd.DataFrame:
    _require(table, ["question", "model"], name, "toolkit")
    table = table.rename(columns={"isCorrect": "is_correct"})
    if "query_id" not in table:
        names = {text: fingerprint(normalise(text)) for text in table["question"].unique()}
        table["query_id"] = table["question"].map(names)
    return table if "benchmark" in table else table.assign(benchmark="all")


def _from_wide(table: pd.DataFrame, name: str, targets: Sequence[str]) -> pd.DataFrame:
    _require(table, QUERY, name, "wide")
    kept = [ROW, *QUERY, *(column for column in OPTIONAL if column in table)]
    others = [column for column in table if column not in kept]
    for target in targets:
        if target not in others:
            raise InputError(f"{name} has no target {target!r}.{did_you_mean(target, others)}")
    return table.melt(kept, list(targets) or others, var_name="model", value_name="is_correct")
