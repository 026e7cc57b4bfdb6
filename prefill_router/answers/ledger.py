"""What was asked of paid endpoints, what they answered, and what that cost: kept through a crash.

Every attempt is on disk before it is sent and every answer before the next one counts. So an answer
that is there is never asked for again, and a request whose answer was lost, which may have been
charged, counts against the cap at the most that it can have cost.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prefill_router.errors import InputError

# Ends of what is no whole answer, whatever its text: it got lost on its way, or a filter took it.
LOST = re.compile("error|abort|cancel|fail|timeout|interrupt|insufficient", re.IGNORECASE)
WITHHELD = re.compile("filter|sensitiv|safety|refus|recit|prohibit|block|spii|guard|moderat", re.I)


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
        Why the answer ends: ``stop``, ``length``... Without a text, what came instead.
    cost_usd : float or None
        What was charged, by the prices of the run that asked; None where there is no price or no
        count.
    """

    text: str
    input_tokens: int | None
    output_tokens: int | None
    finish: str
    cost_usd: float | None

    @property
    def is_answer(self) -> bool:
        """Whether there is a text to grade, neither lost nor withheld in part."""
        return bool(self.text.strip()) and not any(e.search(self.finish) for e in (LOST, WITHHELD))


@contextmanager
def open_ledger(path: str | os.PathLike, cap_usd: float | None = None) -> Iterator[Ledger]:
    """Open a ledger, made where there is none, and hold it against other processes.

    Parameters
    ----------
    path : path-like
        The file: JSON lines. A last line that a crash cut short is dropped.
    cap_usd : float, optional
        The most that may be spent, by this run and all before it. Default: no cap.

    Raises
    ------
    InputError
        If another process has it open, or a line is none that a ledger holds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(f"{path}.lock").acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{path} is in use: another process is collecting into it. Wait for it to end; two at "
            "once would pay for the same answers."
        ) from None
    with lock, path.open("ab", buffering=0) as file:
        ledger = Ledger(file, cap_usd)
        ledger.read(path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        yield ledger


class Ledger:
    """Attempts, answers and spending of one collection; see `open_ledger`.

    Attributes
    ----------
    answers : dict of str to Reply
        By the key of what was asked. Replies that are no answer are charged, and not among them.
    asked : set of str
        Keys of what was asked, answered or not.
    spent : float
        USD charged for answers that are there.
    in_flight : int
        Attempts of this run that await their answer.
    problems : list of str
        What went wrong in this run, in words.
    """

    def __init__(self, file: io.FileIO | None = None, cap_usd: float | None = None):
        self.cap_usd = cap_usd
        self.answers: dict[str, Reply] = {}
        self.asked: set[str] = set()
        self.spent = 0.0
        self.in_flight = 0
        self.problems: list[str] = []
        self._open: dict[int, float] = {}  # attempts that may still be charged, and their worst
        self._n_attempts = 0
        self._file = file

    def read(self, path: Path) -> None:
        """Apply what the file holds, and cut off what a crash left behind that."""
        size = 0
        *lines, _torn = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) and isinstance(error, ValueError):
                    break  # as a crash of the machine may leave it
                raise InputError(
                    f"{path}, line {number}: no record of this version's. If the file was altered, "
                    "restore it or delete that line; else collect into another file."
                ) from None
            size += len(line) + 1
        self._file.truncate(size)

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
        """Record an attempt's reply, safely on disk when this returns."""
        answered = {"event": "answered", "attempt": attempt, "key": key}
        self._record(answered | {"reply": asdict(reply)})
        self.in_flight -= 1

    def fail(self, attempt: int, may_be_charged: bool) -> None:
        """Record that an attempt has no answer; one that may be charged counts on at its worst."""
        if not may_be_charged:
            self._record({"event": "refused", "attempt": attempt})
        self.in_flight -= 1

    def _record(self, record: dict[str, Any]) -> None:
        """Add a record to the file, return once it is on the disk, and apply it."""
        rest = json.dumps(record, allow_nan=False).encode() + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file)
        except OSError:
            self._file.truncate(size)  # a full disk leaves no half line behind
            raise
        self._apply(record)

    def _apply(self, record: dict[str, Any]) -> None:
        """Change answers and spending as a record says, be it new or read from the file."""
        attempt = record["attempt"]
        if record["event"] == "asked":
            self.asked.add(record["key"])
            self._open[attempt] = record["worst_usd"]
            self._n_attempts = max(self._n_attempts, attempt + 1)
        elif record["event"] == "refused":
            del self._open[attempt]
        else:
            reply = Reply(**record["reply"])
            if reply.cost_usd is not None:  # else it counts on as the most it can have cost
                del self._open[attempt]
                self.spent += reply.cost_usd
            if reply.is_answer:
                self.answers[record["key"]] = reply
