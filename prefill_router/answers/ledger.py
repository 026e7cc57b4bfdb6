"""What was asked of paid endpoints, what they answered, and what that cost: kept through a crash.

Every attempt is on disk before it is sent and every answer before the next one counts. So an answer
that is there is never asked for again, and a request whose answer was lost, which may have been
charged, counts against the cap at the most that it can have cost.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from prefill_router.answers.journal import Journal
from prefill_router.errors import InputError


@dataclass(frozen=True)
class Reply:
    """An answer and what it took.

    Attributes
    ----------
    text : str
        What was answered.
    input_tokens, output_tokens : int or None
        As the endpoint counted them; None where it did not say.
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


class Ledger:
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
    """

    def __init__(self, path: str | os.PathLike, cap_usd: float | None = None):
        self.cap_usd = cap_usd
        self.answers: dict[str, Reply] = {}
        self.spent = 0.0
        self._open: dict[int, float] = {}  # attempts that may still be charged, and their worst
        self._in_flight: set[int] = set()
        self._n_attempts = 0
        self._journal = Journal(path)
        try:
            for number, record in enumerate(self._journal.records, start=1):
                self._replay(record, number)
        except BaseException:
            self._journal.close()
            raise

    def _replay(self, record: dict, number: int) -> None:
        try:
            attempt = record["attempt"]
            if record["event"] == "asked":
                self._open[attempt] = record["worst_usd"]
                self._n_attempts = max(self._n_attempts, attempt + 1)
            elif record["event"] == "refused":
                self._open.pop(attempt)
            else:
                self._settle(attempt, record["key"], Reply(**record["reply"]))
        except (KeyError, TypeError):
            raise InputError(
                f"{self._journal.path}, record {number}, is none of this version's; collect into "
                "another file."
            ) from None

    @property
    def uncertain(self) -> float:
        """USD that requests without an answer may have been charged, at most."""
        return sum(self._open.values())

    @property
    def in_flight(self) -> bool:
        """Whether an attempt of this run awaits its answer."""
        return bool(self._in_flight)

    def allows(self, worst_usd: float) -> bool:
        """Say whether an attempt that costs so much at worst keeps within the cap."""
        return self.cap_usd is None or self.spent + self.uncertain + worst_usd <= self.cap_usd

    def ask(self, key: str, worst_usd: float) -> int:
        """Record that `key` is about to be asked, and return the attempt's number."""
        attempt = self._n_attempts
        self._journal.append(
            {"event": "asked", "attempt": attempt, "key": key, "worst_usd": worst_usd}
        )
        self._n_attempts += 1
        self._open[attempt] = worst_usd
        self._in_flight.add(attempt)
        return attempt

    def answer(self, attempt: int, key: str, reply: Reply) -> None:
        """Record an attempt's answer, safely on disk when this returns."""
        record = {"event": "answered", "attempt": attempt, "key": key, "reply": asdict(reply)}
        self._journal.append(record)
        self._settle(attempt, key, reply)

    def refuse(self, attempt: int) -> None:
        """Record that an attempt was turned down, for which nothing is charged."""
        self._journal.append({"event": "refused", "attempt": attempt})
        self._open.pop(attempt)
        self._in_flight.discard(attempt)

    def lose(self, attempt: int) -> None:
        """Note that an attempt's answer will not come; it stays uncertain what it cost."""
        self._in_flight.discard(attempt)

    def _settle(self, attempt: int, key: str, reply: Reply) -> None:
        if reply.cost_usd is not None:  # else it counts on as the most it can have cost
            self._open.pop(attempt)
            self.spent += reply.cost_usd
        self._in_flight.discard(attempt)
        self.answers[key] = reply

    def close(self) -> None:
        """Let another process collect."""
        self._journal.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
