"""A file of JSON lines to which records are only ever added, each safe on disk before the next."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prefill_router.errors import InputError


class Journal:
    """Records that survive a crash: an append returns once its line is on the disk.

    Parameters
    ----------
    path : path-like
        The file; made where there is none. A last line that a crash cut short is dropped.

    Attributes
    ----------
    records : list of dict
        Those that the file held when it was opened.

    Raises
    ------
    InputError
        If another process has it open, or a line before the last is no JSON object.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.path} is in use: another process is collecting into it. Wait for it to "
                "end; two at once would pay for the same answers."
            ) from None
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            self.records, self._size = self._read()
            os.ftruncate(self._file, self._size)
            _sync_directory(self.path.parent)
        except BaseException:
            self._lock.release()
            raise

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        records, size = [], 0
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last \n is torn
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError
            except ValueError:
                if number == len(lines) - 1:
                    break
                raise InputError(
                    f"{self.path}, line {number}: no JSON object. The file was altered; restore "
                    "it, or delete that line."
                ) from None
            records.append(record)
            size += len(line) + 1
        return records, size

    def append(self, record: dict[str, Any]) -> None:
        """Add a record, and return once it is on the disk."""
        line = json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        try:
            written = os.pwrite(self._file, line, self._size)
            while written < len(line):
                written += os.pwrite(self._file, line[written:], self._size + written)
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)  # a full disk leaves no half line behind
            raise
        self._size += len(line)

    def close(self) -> None:
        """Let another process open the file."""
        os.close(self._file)
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
