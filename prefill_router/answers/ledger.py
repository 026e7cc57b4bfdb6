"""What was asked of paid endpoints, what they answered, and what that cost: kept through a crash.

Every attempt is on disk before it is sent and every answer before the next one counts. So an answer
that is there is never asked for again, and a request whose answer was lost, which may have been
charged, counts against the cap at the most that it can have cost.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from prefill_router.errors import InputError


@dataclass(frozen=True)
class Reply:
    """An answer and what it took.

    Attributes
    ----------
    text : str
        What was answered.
    input_tokens, output_tokens : int or None
        As who answered counted them; None where unknown.
    finish : str
        Why the answer ends: ``stop``, ``length``...
    cost_usd : float or None
        What was charged, by the prices of the run that asked; None where there is no price or no
        count.
    """

    text: str
    input_tokens: int | None
    output_tokens: int | None
    finish: str
    cost_usd: float | None


class Journal:
    """A file of JSON lines that is only added to: an append returns once its line is on the disk.

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
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock.acquire(timeout=0)
            self.records, self._size = self._read()
            os.ftruncate(self._file, self._size)
            _sync_directory(self.path.parent)
        except BaseException as error:
            self.close()
            if not isinstance(error, Timeout):
                raise
            raise InputError(
                f"{self.path} is in use: another process is collecting into it. Wait for it to "
                "end; two at once would pay for the same answers."
            ) from None

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
            written = 0
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Ledger(Journal):
    """Attempts, answers and spending of one collection.

    Parameters
    ----------
    path : path-like
        Its journal.
    cap_usd : float, optional
        The most that may be spent, by this run and all before it. Default: no cap.

    Attributes
    ----------
    answers : dict of str to Reply
        By the key of what was asked.
    spent : float
        USD charged for answers that are there.
    in_flight : int
        Attempts of this run that await their answer.
    """

    def __init__(self, path: str | os.PathLike, cap_usd: float | None = None):
        super().__init__(path)
        self.cap_usd = cap_usd
        self.answers: dict[str, Reply] = {}
        self.spent = 0.0
        self.in_flight = 0
        self._open: dict[int, float] = {}  # attempts that may still be charged, and their worst
        self._n_attempts = 0
        for number, record in enumerate(self.records, start=1):
            try:
                self._apply(record)
            except (KeyError, TypeError):
                self.close()
                raise InputError(
                    f"{self.path}, record {number}, is none of this version's; collect into "
                    "another file."
                ) from None

    @property
    def uncertain(self) -> float:
        """USD that requests without an answer may have been charged, at most."""
        return sum(self._open.values())

    def allows(self, worst_usd: float) -> bool:
        """Say whether an attempt that costs so much at worst keeps within the cap."""
        return self.cap_usd is None or self.spent + self.uncertain + worst_usd <= self.cap_usd

    def ask(self, key: str, worst_usd: float) -> int:
        """Record that `key` is about to be asked, and return the attempt's number."""
        attempt = self._n_attempts
        self._record({"event": "asked", "attempt": attempt, "key": key, "worst_usd": worst_usd})
        self.in_flight += 1
        return attempt

    def answer(self, attempt: int, key: str, reply: Reply) -> None:
        """Record an attempt's answer, safely on disk when this returns."""
        record = {"event": "answered", "attempt": attempt, "key": key, "reply": asdict(reply)}
        self._record(record)
        self.in_flight -= 1

    def refuse(self, attempt: int) -> None:
        """Record that an attempt was turned down, for which nothing is charged."""
        self._record({"event": "refused", "attempt": attempt})
        self.in_flight -= 1

    def lose(self, attempt: int) -> None:
        """Note that an attempt's answer will not come; it stays uncertain what it cost."""
        self.in_flight -= 1

    def _record(self, record: dict[str, Any]) -> None:
        self.append(record)
        self._apply(record)

    def _apply(self, record: dict[str, Any]) -> None:
        """Change answers and spending as a record says, be it new or read from the file."""
        attempt = record["attempt"]
        if record["event"] == "asked":
            self._open[attempt] = record["worst_usd"]
            self._n_attempts = max(self._n_attempts, attempt + 1)
        elif record["event"] == "refused":
            del self._open[attempt]
        else:
            reply = Reply(**record["reply"])
            if reply.cost_usd is not None:  # else it counts on as the most it can have cost
                del self._open[attempt]
                self.spent += reply.cost_usd
            self.answers[record["key"]] = reply
