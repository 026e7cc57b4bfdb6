"""Put many questions to many endpoints at once, within their limits and one spending cap."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from prefill_router.answers.endpoints import Connection, Lost, RateLimit, Refused
from prefill_router.answers.generation import Decoding
from prefill_router.answers.ledger import Ledger, Reply
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError, did_you_mean
from prefill_router.labels.costs import Prices
from prefill_router.progress import track

FIRST_WAIT = 1.0
"""Seconds before the second attempt, at most; doubled for each further one."""
LONGEST_WAIT = 60.0
LONGEST_PAUSE = 600.0
"""An endpoint that asks for a longer pause is left alone."""
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
        settled = asyncio.Event()
        askers = [_Asker(e, decoding, prices, ledger, settled, problems) for e in endpoints]
        n = len(questions) * len(endpoints)
        with closing(_in_thread(lambda advance: _ask_all(askers, questions, advance))) as progress:
            for _ in track(progress, "Asking endpoints", n):
                pass
        replies = {
            endpoint.name: [ledger.answers.get(endpoint.answer_key(q, decoding)) for q in questions]
            for endpoint in endpoints
        }
        return Asked(replies, ledger.spent, ledger.uncertain, problems)


def answer_cost(
    prices: Prices | None, target: str, n_input: int | None, n_output: int | None
) -> float | None:
    """Return what an answer costs in USD, None where its price or a count of tokens is unknown."""
    if prices is None or target not in prices.input or n_input is None or n_output is None:
        return None
    return prices.cost(target, n_input, n_output)


def _in_thread(work: Callable[[Callable[[], None]], Coroutine]) -> Iterator[None]:
    """Run `work`, called with what reports progress, in a thread (a notebook's has a loop already).

    Yields once for each report. What is still running when the caller leaves is cancelled.
    """
    done: queue.SimpleQueue = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(lambda: done.put(None)))
    task.add_done_callback(done.put)

    def run() -> None:
        try:
            loop.run_until_complete(asyncio.wait([task]))
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (event := done.get()) is None:
            yield
        event.result()
    except* Exception as errors:
        raise errors.exceptions[0] from None
    finally:
        if not task.done():
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def _ask_all(
    askers: Sequence[_Asker], questions: Sequence[str], advance: Callable[[], None]
) -> None:
    """Let a few workers per endpoint ask what is not in the ledger."""
    try:
        async with asyncio.TaskGroup() as group:
            for asker in askers:
                waiting = iter(asker.unanswered(questions, advance))
                for _ in range(asker.endpoint.concurrency):
                    group.create_task(asker.work(waiting, advance))
    finally:
        for asker in askers:
            await asker.connection.close()


class _Asker:
    """An endpoint while it is asked."""

    def __init__(
        self,
        endpoint: Endpoint,
        decoding: Decoding,
        prices: Prices | None,
        ledger: Ledger,
        settled: asyncio.Event,
        problems: list[str],
    ):
        self.endpoint, self.decoding, self.prices, self.ledger = endpoint, decoding, prices, ledger
        self.settled = settled  # some attempt's cost, of any endpoint, has become known
        self.problems = problems
        self.connection = Connection(endpoint, decoding)
        self.limit = RateLimit(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self.failures, self.reason, self.stopped = 0, "", False

    def unanswered(
        self, questions: Sequence[str], advance: Callable[[], None]
    ) -> list[tuple[str, str]]:
        """Return keys and questions without an answer, and report the others."""
        keys = {self.endpoint.answer_key(q, self.decoding): q for q in questions}
        todo = [(key, q) for key, q in keys.items() if key not in self.ledger.answers]
        for _ in range(len(questions) - len(todo)):
            advance()
        return todo

    async def work(self, waiting: Iterator[tuple[str, str]], advance: Callable[[], None]) -> None:
        """Ask one waiting question after another."""
        for key, question in waiting:
            if self.stopped:
                return
            self.failures = 0 if await self.ask(key, question) else self.failures + 1
            if self.failures >= max(FAILURES_IN_A_ROW, self.endpoint.concurrency):
                self.stop(f"{self.failures} questions in a row failed: {self.reason}")
            advance()

    async def ask(self, key: str, question: str) -> bool:
        """Ask one question until it is answered or given up; return whether it was answered."""
        n_input = self.endpoint.most_input_tokens(question)
        most = self.decoding.max_new_tokens
        worst = answer_cost(self.prices, self.endpoint.name, n_input, most) or 0.0
        for attempt_number in range(self.endpoint.retries + 1):
            await self.limit.wait(n_input + most)
            if self.stopped or not await self.afford(worst):
                return False
            attempt = self.ledger.ask(key, worst)
            wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt_number))
            try:
                reply = await self.connection.ask(question)
                counts = reply.input_tokens, reply.output_tokens
                cost = answer_cost(self.prices, self.endpoint.name, *counts)
                self.ledger.answer(attempt, key, replace(reply, cost_usd=cost))
                return True
            except Lost as error:
                self.ledger.lose(attempt)
                self.reason = str(error)
            except Refused as error:
                self.ledger.refuse(attempt)
                self.reason = str(error)
                if error.kind == "query":
                    break
                pause = error.wait or 0.0
                if error.kind == "endpoint" or pause > LONGEST_PAUSE:
                    asks = f"it asks to wait {pause:,.0f} s; " if pause > LONGEST_PAUSE else ""
                    self.stop(asks + self.reason)
                    return False
                if error.wait is not None:
                    self.limit.pause(pause)
                    wait = 0.0
            finally:
                self.settled.set()
            if attempt_number < self.endpoint.retries:
                await asyncio.sleep(wait)
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
            self.settled.clear()
            await self.settled.wait()
        return True

    def stop(self, reason: str) -> None:
        """Ask no further, and say why."""
        if not self.stopped:
            self.stopped = True
            self.problems.append(f"{self.endpoint.name}: asked no further: {reason}")
