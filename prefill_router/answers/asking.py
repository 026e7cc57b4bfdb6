"""Put many questions to many endpoints at once, within their limits and one spending cap."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from prefill_router.answers.endpoints import Connection, NoAnswer, RateLimit
from prefill_router.answers.generation import Decoding
from prefill_router.answers.ledger import Ledger, Reply
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError, did_you_mean
from prefill_router.labels.costs import Prices
from prefill_router.progress import track

FIRST_WAIT = 1.0
"""Seconds before the second attempt, at most; doubled for each further one."""
LONGEST_WAIT = 60.0
CHECK_EVERY = 0.05
"""Seconds between two looks at whether the cap allows a request that waits for it."""
FAILURES_IN_A_ROW = 5
"""After so many questions without an answer, at least, an endpoint is not asked further."""


@dataclass
class Asked:
    """What came of a collection from endpoints.

    Attributes
    ----------
    replies : dict of str to list of (Reply or None)
        For each endpoint's name one entry a question; None where there is no answer.
    spent, uncertain : float
        USD charged by this and earlier runs, and what lost answers may have cost besides, at most.
    problems : list of str
        What went wrong, in words: an endpoint given up, the cap reached, questions refused.
    """

    replies: dict[str, list[Reply | None]]
    spent: float
    uncertain: float
    problems: list[str] = field(default_factory=list)


def ask_endpoints(
    endpoints: Sequence[Endpoint],
    questions: Sequence[str],
    decoding: Decoding,
    path: str | os.PathLike,
    prices: Prices | None = None,
    cap_usd: float | None = None,
) -> Asked:
    """Ask every endpoint every question that its journal holds no answer to.

    Parameters
    ----------
    endpoints : sequence of Endpoint
        Whom to ask.
    questions : sequence of str, length N
        What; one that occurs twice is asked once.
    decoding : Decoding
        ``max_new_tokens``, ``temperature`` and ``seed``.
    path : path-like
        The journal, see `prefill_router.answers.ledger`. It makes a rerun go on where this stops.
    prices : Prices, optional
        By the endpoints' names; needed for a cap, and for costs.
    cap_usd : float, optional
        The most to spend, runs before included. Nothing is sent that could exceed it.

    Returns
    -------
    Asked

    Raises
    ------
    InputError
        If a key or a price is missing, or the journal is in use or damaged.
    """
    if cap_usd is not None:
        for endpoint in endpoints:
            if prices is None or endpoint.name not in prices.output:
                known = did_you_mean(endpoint.name, prices.output) if prices else ""
                raise InputError(
                    f"cap_usd needs the price of target {endpoint.name!r}; give it, with 0 if it "
                    f"is free.{known}"
                )
    problems: list[str] = []
    with Ledger(path, cap_usd) as ledger:
        done: queue.SimpleQueue = queue.SimpleQueue()
        shared = decoding, prices, ledger, problems, lambda: done.put(None)
        askers = [_Asker(endpoint, questions, *shared) for endpoint in endpoints]
        # In a thread, since a notebook has a loop already; an exception here cancels the requests.
        loop = asyncio.new_event_loop()
        task = loop.create_task(_ask_all(askers))
        task.add_done_callback(done.put)
        thread = threading.Thread(target=loop.run_until_complete, args=[asyncio.wait([task])])
        thread.start()
        try:
            n = sum(len(asker.unanswered) for asker in askers)
            for _ in track(iter(done.get, task), "Asking endpoints", n):
                pass
            task.result()
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
            loop.close()
        replies = {a.endpoint.name: [ledger.answers.get(key) for key in a.keys] for a in askers}
        return Asked(replies, ledger.spent, ledger.uncertain, problems)


def answer_cost(
    prices: Prices | None, target: str, n_input: int | None, n_output: int | None
) -> float | None:
    """Return what an answer costs in USD, None where its price or a count of tokens is unknown."""
    if prices is None or target not in prices.input or n_input is None or n_output is None:
        return None
    return prices.cost(target, n_input, n_output)


async def _ask_all(askers: Sequence[_Asker]) -> None:
    """Let a few workers per endpoint ask what is not in the ledger."""
    try:
        async with asyncio.TaskGroup() as group:
            for asker in askers:
                waiting = iter(asker.unanswered.items())
                for _ in range(asker.endpoint.concurrency):
                    group.create_task(asker.work(waiting))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for asker in askers:
            await asker.connection.close()


@dataclass
class _Asker:
    """An endpoint while it is asked."""

    endpoint: Endpoint
    questions: Sequence[str]
    decoding: Decoding
    prices: Prices | None
    ledger: Ledger
    problems: list[str]
    advance: Callable[[], None]

    def __post_init__(self) -> None:
        self.connection = Connection(self.endpoint, self.decoding)
        self.limit = RateLimit(self.endpoint.requests_per_minute, self.endpoint.tokens_per_minute)
        self.keys = [self.endpoint.answer_key(q, self.decoding) for q in self.questions]
        asked = dict(zip(self.keys, self.questions, strict=True))
        self.unanswered = {key: q for key, q in asked.items() if key not in self.ledger.answers}
        self.failures, self.reason, self.stopped = 0, "", False

    async def work(self, waiting: Iterator[tuple[str, str]]) -> None:
        """Ask one waiting question after another."""
        for key, question in waiting:
            if self.stopped:
                return
            self.failures = 0 if await self.ask(key, question) else self.failures + 1
            if self.failures >= max(FAILURES_IN_A_ROW, self.endpoint.concurrency):
                self.stop(f"{self.failures} questions in a row failed: {self.reason}")
            self.advance()

    async def ask(self, key: str, question: str) -> bool:
        """Ask one question until it is answered or given up; return whether it was answered."""
        n_input = self.endpoint.most_input_tokens(question)
        most = self.decoding.max_new_tokens
        worst = answer_cost(self.prices, self.endpoint.name, n_input, most) or 0.0
        wait = 0.0
        for n_failed in range(self.endpoint.retries + 1):
            await asyncio.sleep(wait)
            await self.limit.wait(n_input + most)
            if self.stopped or not await self.afford(worst):
                return False
            attempt = self.ledger.ask(key, worst)
            try:
                reply = await self.connection.ask(question)
                counts = reply.input_tokens, reply.output_tokens
                cost = answer_cost(self.prices, self.endpoint.name, *counts)
                self.ledger.answer(attempt, key, replace(reply, cost_usd=cost))
                return True
            except NoAnswer as error:
                (self.ledger.lose if error.may_be_charged else self.ledger.refuse)(attempt)
                self.reason = error.reason
                if error.then == "stop":
                    self.stop(error.reason)
                    return False
                if error.then == "next question":
                    break
                if error.wait is None:
                    wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**n_failed))
                else:
                    self.limit.pause(error.wait)
                    wait = 0.0
        self.problems.append(f"{self.endpoint.name}: no answer to {question!r:.60} ({self.reason})")
        return False

    async def afford(self, worst: float) -> bool:
        """Wait until the cap allows a request, or no attempt is left that could make it."""
        while not self.ledger.allows(worst):
            if not self.ledger.in_flight:
                self.stop(
                    f"the cap of {self.ledger.cap_usd:g} USD allows no further question "
                    f"({self.ledger.spent:.6g} spent, up to {self.ledger.uncertain:.6g} more for "
                    "answers that were lost); raise cap_usd to go on"
                )
                return False
            await asyncio.sleep(CHECK_EVERY)
        return True

    def stop(self, reason: str) -> None:
        """Ask no further, and say why."""
        if not self.stopped:
            self.stopped = True
            self.problems.append(f"{self.endpoint.name}: asked no further: {reason}")
