"""Tables from memory, files, directories or the hub, every cell as text."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from prefill_router.errors import InputError
from prefill_router.storage import atomic_write

WRITTEN = (".csv", ".csv.gz", ".parquet")
KINDS = (*WRITTEN, ".json", ".jsonl")
LFS_POINTER = b"version https://git-lfs"

Source = str | os.PathLike | pd.DataFrame


def source_name(source: Source) -> str:
    """Return what an error calls a source."""
    return "the table" if isinstance(source, pd.DataFrame) else os.fspath(source)


def read_table(source: Source) -> pd.DataFrame:
    """Read a table and return every cell as text, a missing one as the empty string.

    Parameters
    ----------
    source : str, path-like or pandas.DataFrame
        A table in memory, a file (``.csv``, ``.csv.gz``, ``.parquet``, ``.json``: a list of
        objects, ``.jsonl``), a directory written by `datasets`' ``save_to_disk``, or
        ``hub:OWNER/NAME[:SPLIT]``. Where a data set has several splits they are joined, and named
        in a column `split`.

    Returns
    -------
    pandas.DataFrame
        Columns of str. Columns without a name, which are saved row indices, are left out.

    Raises
    ------
    InputError
        If there is nothing to read, the content is not what the name says, or it is damaged.
    """
    name = source_name(source)
    table = source if isinstance(source, pd.DataFrame) else _read(name)
    columns = [str(column).strip() for column in table.columns]
    named = [bool(column) and not column.startswith("__index_level_") for column in columns]
    table = table.set_axis(columns, axis=1).loc[:, named].reset_index(drop=True)
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"{name} has two columns named {twice[0]!r}; rename or remove one.")
    if table.empty:
        raise InputError(f"{name} holds no rows.")
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
    column = column.astype(object)
    if pd.api.types.infer_dtype(column, skipna=False) == "string":
        return column
    return column.where(column.notna(), "").map(str)


def _kind(path: Path, kinds: tuple[str, ...] = KINDS) -> str:
    kind = next((kind for kind in kinds if path.name.lower().endswith(kind)), None)
    if kind is None:
        raise InputError(f"{path}: its name must end in {', '.join(kinds)}.")
    return kind


def _read(name: str) -> pd.DataFrame:
    path = Path(name)
    if name.startswith("hub:"):
        repository, _, split = name.removeprefix("hub:").partition(":")
        return _from_datasets(
            lambda datasets: datasets.load_dataset(repository, split=split or None),
            f"{name} cannot be read from the hub. Without a connection, save it elsewhere with "
            "load_dataset(...).save_to_disk(DIRECTORY), copy the directory here and give its path",
        )
    if path.is_dir():
        return _from_datasets(
            lambda datasets: datasets.load_from_disk(name),
            f"{name} is not a data set that `datasets` saved with save_to_disk",
        )
    if path.is_file():
        return _from_file(path)
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    hub = "" if path.suffix else " (A data set on the hub is hub:OWNER/NAME.)"
    raise InputError(f"{name}: no such file or directory{where}.{hub}")


def _from_datasets(load: Callable[[ModuleType], object], problem: str) -> pd.DataFrame:
    import datasets  # slow to import, and seldom needed

    try:
        data = load(datasets)
        parts = data if isinstance(data, dict) else {"": data}
        tables = {name: _from_arrow(part.with_format("arrow")[:]) for name, part in parts.items()}
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{problem}: {error}") from error
    if len(tables) > 1:
        tables = {
            name: table if "split" in table else table.assign(split=name)
            for name, table in tables.items()
        }
    return pd.concat(tables.values(), ignore_index=True)


def _from_file(path: Path) -> pd.DataFrame:
    kind = _kind(path)
    try:
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError("it is a Git LFS pointer; fetch the file with `git lfs pull`")
        if kind == ".parquet":
            return _from_arrow(parquet.read_table(path))
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if kind == ".csv.gz" else raw).decode("utf-8-sig")
        if not text.strip():
            raise ValueError("it is empty")
        return _from_csv(text) if kind in WRITTEN else _from_json(text, kind)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x} in line {line}); "
            "save the file as UTF-8."
        ) from None
    except (EOFError, zlib.error, csv.Error, ValueError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as {kind} (damaged, cut short or of another format?): {error}"
        ) from error


def _from_arrow(table: pa.Table) -> pd.DataFrame:
    # Else integers become floats where a cell, or in a joined split all, is missing: 17 reads 17.0.
    return table.to_pandas(integer_object_nulls=True).astype(object)


def _from_csv(text: str) -> pd.DataFrame:
    # Not by pandas, which fills short rows up: the missing cells would read as never asked.
    csv.field_size_limit(2**31 - 1)  # the default refuses long questions
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if other:
        raise ValueError(f"its header has no comma, but {other!r}; save it with commas.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, but the header {len(header)}.")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _from_json(text: str, kind: str) -> pd.DataFrame:
    if kind == ".json":
        records = json.loads(text)
    else:
        records = []
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                records += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not a JSON value ({error.msg}).") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("expected objects, a list of them in .json, one a line in .jsonl.")
    if "\\ud" in text.lower():  # half a surrogate pair is valid JSON, but no text
        json.dumps(records, ensure_ascii=False).encode()
    return pd.DataFrame(records, dtype=object)
