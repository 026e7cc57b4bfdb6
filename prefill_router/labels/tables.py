"""Tables from memory, files, directories or the hub: every cell as text, then checked and read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import atomic_write

WRITTEN = (".csv", ".csv.gz", ".parquet")
LFS_POINTER = b"version https://git-lfs"
MISSING = {"", "nan", "-nan", "na", "n/a", "#n/a", "#na", "null", "none", "<na>", "nat"}
TEXTS = ("query_id", "question", "benchmark", "model", "group", "split", "reference")
# messages and bytes that were written as text, as in a CSV file
WRITTEN_OUT = re.compile(r"""\s*(\[\s*\{.*["']role["']\s*:.*\]|b(["']).*\2)\s*$""", re.DOTALL)

Source = str | os.PathLike | pd.DataFrame
Read = Callable[[str], Any]
"""From a cell's text to its value, None where it cannot be read."""


def source_name(source: Source) -> str:
    """Return what an error calls a source; raise InputError if it is none."""
    if not isinstance(source, str | os.PathLike | pd.DataFrame):
        raise InputError(f"A table is a path or a pandas.DataFrame, not {type(source).__name__}.")
    return "the table" if isinstance(source, pd.DataFrame) else os.fspath(source)


def read_table(source: Source) -> pd.DataFrame:
    """Read a table and return every cell as text, a missing one as the empty string.

    Parameters
    ----------
    source : str, path-like or pandas.DataFrame
        A table in memory, a file (``.csv``, ``.csv.gz``, ``.parquet``, ``.json`` or ``.jsonl``:
        a list of objects, or one a line), a directory written by `datasets`' ``save_to_disk``, or
        ``hub:OWNER/NAME[:SPLIT]``. Where a data set has several splits they are joined, and named
        in a column `split`.

    Returns
    -------
    pandas.DataFrame
        Columns of str; rows are numbered from 1, as errors count them. An index that has a name is
        a column; one that was saved without a name, and empty columns without one, are left out.

    Raises
    ------
    InputError
        If there is nothing to read, the content is not what the name says, it is damaged, or one
        of `TEXTS` holds no text, but messages or bytes, say.
    """
    name = source_name(source)
    table = _with_index(source) if isinstance(source, pd.DataFrame) else _read(name)
    table = table.set_axis([str(column).strip() for column in table], axis=1)
    kept = [
        bool(column or (i and as_text(table.iloc[:, i]).ne("").any()))
        and not column.startswith("__index_level_")
        for i, column in enumerate(table)
    ]
    table = table.loc[:, kept]
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"{name} has two columns named {twice[0]!r}; rename or remove one.")
    if table.empty:
        raise InputError(f"{name} holds no rows.")
    table = table.set_axis(range(1, len(table) + 1))
    for column in table.columns.intersection(TEXTS):
        for row, cell in table[column].items():
            is_text = isinstance(cell, str) and not WRITTEN_OUT.match(cell)
            if not is_text and hasattr(cell, "__len__"):
                raise InputError(
                    f"{name}, row {row}: {column} is {cell!r:.80} ({type(cell).__name__}); give "
                    "plain text, not messages or bytes."
                )
    return table.apply(as_text)


def write_table(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write `table` atomically; the same table gives the same bytes.

    Parameters
    ----------
    table : pandas.DataFrame
        Its index is not written.
    path : path-like
        Ends in ``.csv``, ``.csv.gz`` or ``.parquet``.

    Raises
    ------
    InputError
        If the name ends in anything else.
    """
    kind = _kind(Path(path), WRITTEN)
    with atomic_write(path) as temporary:
        if kind == ".parquet":
            table.to_parquet(temporary, index=False)
            return
        content = table.to_csv(index=False, lineterminator="\n").encode()
        # Neither a time nor the temporary name in the gzip header.
        temporary.write_bytes(gzip.compress(content, mtime=0) if kind == ".csv.gz" else content)


def as_text(column: pd.Series) -> pd.Series:
    """Return a column's cells as text, a missing one as the empty string."""
    return column.astype(object).where(column.notna(), "").map(str)


def checked_cells(
    table: pd.DataFrame, cells: Mapping[str, tuple[Read, str]], name: str
) -> pd.DataFrame:
    """Return a table of text cells with the values that its cells stand for.

    Parameters
    ----------
    table : pandas.DataFrame
        As `read_table` returns it; a column that `cells` does not name is left as it is.
    cells : mapping of str to (callable, str)
        How a column's cells are read, and what they must be, in words.
    name : str
        What to call the table in an error.

    Raises
    ------
    InputError
        If cells cannot be read. Of each column, and of each model's labels and prices, it names
        row, query and target of the first, and says how many there are.
    """
    values, faults = {}, []
    for column in table.columns.intersection(list(cells)):
        read, expected = cells[column]
        values[column] = [read(text) for text in table[column]]
        bad = table.loc[[value is None for value in values[column]]]
        for _, rows in bad.groupby([0] * len(bad) if column in TEXTS else "model", sort=False):
            first, more = rows.iloc[0], f" (the first of {len(rows):,})" * (len(rows) > 1)
            keys = [f"{key} {first[key]!r}" for key in ("query_id", "model") if key in first]
            where = f"{name}, row {first.name}" + f" ({', '.join(keys)})" * bool(keys)
            faults.append(f"{where}: {column} is {first[column]!r}{more}; it must be {expected}.")
    if faults:
        raise InputError("\n".join(faults[:10] + ["..."] * (len(faults) > 10)))
    return table.assign(**values)


def require(table: pd.DataFrame, columns: Iterable[str], name: str, what: str) -> None:
    """Raise InputError where a column is missing that `what` needs."""
    for column in columns:
        if column not in table:
            hint = did_you_mean(column, table)
            raise InputError(f"{name} has no column {column!r}, which {what} needs.{hint}")


def filled(text: str) -> str | None:
    """Return a text that is not empty, nor one of `MISSING`."""
    return None if text.strip().lower() in MISSING else text


def number(text: str) -> float | None:
    """Return the finite number, not negative, that `text` is."""
    try:
        value = float(text.replace("_", "?"))  # Python takes 1_0 for 10
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def optional(read: Read) -> Read:
    """Return what reads a missing cell as NaN, and others as `read` does."""
    return lambda text: math.nan if text.strip().lower() in MISSING else read(text)


def _kind(path: Path, kinds: tuple[str, ...]) -> str:
    for kind in kinds:
        if path.name.lower().endswith(kind):
            return kind
    raise InputError(f"{path}: its name must end in {', '.join(kinds)}.")


def _with_index(table: pd.DataFrame) -> pd.DataFrame:
    return table.reset_index(level=[n for n in table.index.names if n and n not in table])


def _read(name: str) -> pd.DataFrame:
    path = Path(name)
    if name.startswith("hub:") or path.is_dir():
        return _from_datasets(name)
    if path.is_file():
        return _from_file(path)
    raise InputError(
        f"{path.absolute()}: no such file or directory; a data set on the hub is hub:OWNER/NAME."
    )


def _from_datasets(name: str) -> pd.DataFrame:
    import datasets  # slow to import, and seldom needed

    try:
        if name.startswith("hub:"):
            repository, _, split = name.removeprefix("hub:").partition(":")
            data = datasets.load_dataset(repository, split=split or None)
        else:
            data = datasets.load_from_disk(name)
        parts = data if isinstance(data, dict) else {"": data}
        tables = {name: _from_arrow(part.with_format("arrow")[:]) for name, part in parts.items()}
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read as a data set of the hub, or one written by save_to_disk, as "
            f"load_dataset(...).save_to_disk(DIRECTORY) does for use without a connection: {error}"
        ) from error
    if len(tables) > 1:
        for part, table in tables.items():
            table["split"] = table.get("split", part)
    return pd.concat(tables.values(), ignore_index=True)


def _from_file(path: Path) -> pd.DataFrame:
    kind = _kind(path, (*WRITTEN, ".json", ".jsonl"))
    try:
        raw = path.read_bytes()
        if raw.startswith(LFS_POINTER):
            raise ValueError("it is a Git LFS pointer; fetch the file with `git lfs pull`")
        if kind == ".parquet":
            return _from_arrow(parquet.read_table(pa.BufferReader(raw)))
        text = (gzip.decompress(raw) if kind == ".csv.gz" else raw).decode("utf-8-sig")
        if not text.strip():
            raise ValueError("it is empty")
        return _from_csv(text) if kind in WRITTEN else _from_json(text.strip(), kind)
    except (EOFError, zlib.error, csv.Error, ValueError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as {kind} (damaged, cut short, of another format, or not saved "
            f"as UTF-8?): {error}"
        ) from error


def _from_arrow(table: pa.Table) -> pd.DataFrame:
    # Else integers become floats where a cell, or in a joined split all, is missing: 17 reads 17.0.
    # By pandas' own metadata an index would be no column.
    return table.to_pandas(integer_object_nulls=True, ignore_metadata=True).astype(object)


def _from_csv(text: str) -> pd.DataFrame:
    # Not by pandas, which fills short rows up: the missing cells would read as never asked.
    csv.field_size_limit(2**31 - 1)  # the default refuses long questions
    if re.match('"?(#|sep=)', text):
        raise ValueError("its first line begins with # or sep=, and names no columns; remove it.")
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    if len(header) == 1 and (other := set(";\t|") & set(header[0])):
        raise ValueError(f"its header has no comma, but {min(other)!r}; save it with commas.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, but the header {len(header)}.")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _from_json(text: str, kind: str) -> pd.DataFrame:
    if text[0] == "{" and (kind == ".jsonl" or re.match(r"\{.*\}\s*\n\s*\{", text)):
        # one a line, read as one list, so that an error tells the line
        text = "[" + re.sub(r"\n\s*", ",\n", text) + "]"
    records = json.loads(text, object_pairs_hook=_record)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("expected objects: a list, or one a line (pandas: orient='records').")
    if "\\ud" in text.lower():  # half a surrogate pair is valid JSON, but no text
        json.dumps(records, ensure_ascii=False).encode()
    return pd.DataFrame(records, dtype=object)


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(record := dict(pairs)) < len(pairs):  # the last one would win
        raise ValueError(f"an object names a field twice: {', '.join(key for key, _ in pairs)}")
    return record
