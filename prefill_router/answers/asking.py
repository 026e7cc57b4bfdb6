"""Put many questions to many endpoints at once, within their limits and one spending cap."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from prefill_router.answers.endpoints import Connection, Lost, Refused
from prefill_router.answers.generation import Decoding
from prefill_router.answers.ledger import Ledger, Reply
from prefill_router.answers.rate_limits import RateLimit
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
    with Ledger(path, cap_usd) as ledger:
        asker = _Asker(ledger, decoding, prices)
        n = len(questions) * len(endpoints)
        with closing(asker.run(endpoints, questions)) as progress:
            for _ in track(progress, "Asking endpoints", n):
                pass
        replies = {
            endpoint.name: [ledger.answers.get(endpoint.answer_key(q, decoding)) for q in questions]
            for endpoint in endpoints
        }
        return Asked(replies, ledger.spent, ledger.uncertain, asker.problems)


def answer_cost(
    prices: Prices | None, target: str, n_input: int | None, n_output: int | None
) -> float | None:
    """Return what an answer costs in USD, None where its price or a count of tokens is unknown."""
    if prices is None or target not in prices.input or n_input is None or n_output is None:
        return None
    return prices.cost(target, n_input, n_output)


class _Asker:
    """The questions of one run: a few workers an endpoint, all on one event loop."""

    def __init__(self, ledger: Ledger, decoding: Decoding, prices: Prices | None):
        self.ledger, self.decoding, self.prices = ledger, decoding, prices
        self.problems: list[str] = []
        self._settled = asyncio.Event()  # some attempt's cost has become known
        self._stopped: set[str] = set()

    def run(self, endpoints: Sequence[Endpoint], questions: Sequence[str]) -> Iterator[None]:
        """Ask, in a thread of its own (a notebook's has a loop already), and yield progress."""
        done: queue.SimpleQueue = queue.SimpleQueue()
        connections = [Connection(endpoint, self.decoding) for endpoint in endpoints]
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._ask_all(connections, questions, lambda: done.put(None)))
        task.add_done_callback(done.put)

        def work() -> None:
            try:
                loop.run_until_complete(asyncio.wait([task]))
            finally:
                loop.close()

        thread = threading.Thread(target=work, daemon=True)
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

    async def _ask_all(self, connections, questions: Sequence[str], advance) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for connection in connections:
                    endpoint = connection.endpoint
                    keys = {endpoint.answer_key(q, self.decoding): q for q in questions}
                    todo = [(k, q) for k, q in keys.items() if k not in self.ledger.answers]
                    for _ in range(len(questions) - len(todo)):
                        advance()
                    waiting = iter(todo)
                    state = _State(
                        connection,
                        RateLimit(endpoint.requests_per_minute, endpoint.tokens_per_minute),
                    )
                    for _ in range(endpoint.concurrency):
                        group.create_task(self._work(state, waiting, advance))
        finally:
            for connection in connections:
                await connection.close()

    async def _work(self, state: _State, waiting: Iterator[tuple[str, str]], advance) -> None:
        for key, question in waiting:
            if state.endpoint.name in self._stopped:
                return
            if await self._ask(state, key, question):
                state.failures = 0
            else:
                state.failures += 1
            if state.failures >= max(FAILURES_IN_A_ROW, state.endpoint.concurrency):
                self._stop(state, f"{state.failures} questions in a row failed: {state.reason}")
            advance()

    async def _ask(self, state: _State, key: str, question: str) -> bool:
        """Ask one question until it is answered or given up; return whether it was answered."""
        endpoint = state.endpoint
        n_input = endpoint.most_input_tokens(question)
        most = self.decoding.max_new_tokens
        worst = answer_cost(self.prices, endpoint.name, n_input, most) or 0.0
        for attempt_number in range(endpoint.retries + 1):
            await state.limit.wait(n_input + most)
            if endpoint.name in self._stopped or not await self._afford(state, worst):
                return False
            attempt = self.ledger.ask(key, worst)
            wait = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt_number))
            try:
                reply = await state.connection.ask(question)
                counts = reply.input_tokens, reply.output_tokens
                cost = answer_cost(self.prices, endpoint.name, *counts)
                self.ledger.answer(attempt, key, replace(reply, cost_usd=cost))
                return True
            except Lost as error:
                self.ledger.lose(attempt)
                state.reason = str(error)
            except Refused as error:
                self.ledger.refuse(attempt)
                state.reason = str(error)
                if error.kind == "endpoint":
                    self._stop(state, state.reason)
                    return False
                if error.kind == "query":
                    break
                if error.wait is not None and error.wait > LONGEST_PAUSE:
                    self._stop(state, f"it asks to wait {error.wait:,.0f} s; {state.reason}")
                    return False
                if error.wait is not None:
                    state.limit.pause(error.wait)
                    wait = 0.0
            finally:
                self._settled.set()
            if attempt_number < endpoint.retries:
                await asyncio.sleep(wait)
        self.problems.append(f"{endpoint.name}: no answer to {question!r:.60} ({state.reason})")
        return False

    async def _afford(self, state: _State, worst: float) -> bool:
        """Wait until the cap allows a request, or no attempt is left that could make it."""
        while not self.ledger.allows(worst):
            if not self.ledger.in_flight:
                self._stop(
                    state,
                    f"the cap of {self.ledger.cap_usd:g} USD allows no further question "
                    f"({self.ledger.spent:.6g} spent, up to {self.ledger.uncertain:.6g} more for "
                    "answers that were lost); raise cap_usd to go on",
                )
                return False
            self._settled.clear()
            await self._settled.wait()
        return True

    def _stop(self, state: _State, reason: str) -> None:
        if state.endpoint.name not in self._stopped:
            self._stopped.add(state.endpoint.name)
            self.problems.append(f"{state.endpoint.name}: asked no further: {reason}")


@dataclass
class _State:
    """An endpoint while it is asked."""

    connection: Connection
    limit: RateLimit
    failures: int = 0
    reason: str = ""

    @property
    def endpoint(self) -> Endpoint:
        return self.connection.endpoint
