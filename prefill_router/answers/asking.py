"""Put many questions to many endpoints at once, within their limits and one spending cap."""

from __future__ import annotations

import asyncio
import os
import queue
import random
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from anyio.from_thread import start_blocking_portal

from prefill_router.answers.endpoints import Connection, RateLimit
from prefill_router.answers.ledger import Ledger, open_ledger
from prefill_router.answers.replies import NoAnswer
from prefill_router.answers.targets import Decoding, Endpoint
from prefill_router.errors import InputError, did_you_mean
from prefill_router.labels.costs import Prices
from prefill_router.progress import track

FIRST_WAIT = 1.0  # seconds before the second attempt, at most; doubled for each further one
LONGEST_WAIT = 60.0
CHECK_EVERY = 0.05  # seconds between two looks at whether the cap allows a request now
# After so many questions without an answer, at least, an endpoint is not asked further.
FAILURES_IN_A_ROW = 5


def ask_endpoints(
    endpoints: Sequence[Endpoint],
    questions: Sequence[str],
    decoding: Decoding,
    path: str | os.PathLike,
    prices: Prices | None = None,
    cap_usd: float | None = None,
) -> Ledger:
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
    Ledger
        All answers so far by `Endpoint.answer_key`, what was spent, and what went wrong.

    Raises
    ------
    InputError
        If a key or a price is missing, or the journal is in use or damaged.
    """
    for endpoint in endpoints if cap_usd is not None else ():
        if prices is None or endpoint.name not in prices.output:
            raise InputError(
                f"cap_usd needs the price of target {endpoint.name!r}; give it, 0 if it is free."
                + did_you_mean(endpoint.name, prices.output if prices else ())
            )
    with open_ledger(path, cap_usd) as ledger:
        done: queue.SimpleQueue = queue.SimpleQueue()
        askers = [_Asker(to, questions, decoding, prices, ledger, done) for to in endpoints]
        n = sum(len(asker.waiting) for asker in askers)
        # In a thread, since a notebook has a loop already; an exception here cancels the requests.
        with start_blocking_portal() as portal:
            task = portal.start_task_soon(_ask_all, askers)
            task.add_done_callback(done.put)
            for _ in track(iter(done.get, task), "Asking endpoints", n):
                pass
            task.result()
        ledger.problems += [problem for asker in askers for problem in asker.problems()]
        return ledger


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
        async with AsyncExitStack() as clients, asyncio.TaskGroup() as group:
            for asker in askers:
                await clients.enter_async_context(asker.connection.client)
                for _ in range(asker.endpoint.concurrency):
                    group.create_task(asker.work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class _Asker:
    """An endpoint while it is asked what the ledger holds no answer to."""

    def __init__(
        self, endpoint: Endpoint, questions: Sequence[str], decoding: Decoding,
        prices: Prices | None, ledger: Ledger, done: queue.SimpleQueue,
    ):  # fmt: skip
        self.endpoint, self.ledger, self.done = endpoint, ledger, done
        self.max_new_tokens = decoding.max_new_tokens
        self.cost = partial(answer_cost, prices, endpoint.name)
        self.connection = Connection(endpoint, decoding)
        self.limit = RateLimit(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        asked = {endpoint.answer_key(question, decoding): question for question in questions}
        waiting = [item for item in asked.items() if item[0] not in ledger.answers]
        # What was asked in vain comes last, so that no rerun ends where the one before did.
        self.waiting = deque(sorted(waiting, key=lambda item: item[0] in ledger.asked))
        self.has_answered = len(waiting) < len(asked)
        # Failures in a row; the most that a reply cost, in units of what was reckoned as its worst.
        self.failures, self.overrun = 0, 1.0
        self.unanswered, self.stopped = defaultdict(list), ""  # questions by reason; the reason

    async def work(self) -> None:
        """Ask one waiting question after another."""
        while self.waiting and not self.stopped:
            key, question = self.waiting.popleft()
            try:
                await self.ask(key, question)
                self.failures = 0
            except NoAnswer as error:
                self.failures += 1
                # Unserved from the first question on, it is the target; later, it is the question.
                first = error.then == "ask others" and not self.has_answered
                if error.then == "stop" or (first and self.failures >= self.endpoint.concurrency):
                    self.stopped = self.stopped or error.reason
                    return
                self.unanswered[error.reason].append(question)
                if self.failures >= max(FAILURES_IN_A_ROW, self.endpoint.concurrency):
                    self.stopped = f"{self.failures} questions in a row failed: {error.reason}"
            self.done.put(None)

    async def ask(self, key: str, question: str) -> None:
        """Ask one question until it is answered; raise NoAnswer if it is given up."""
        n_input = self.endpoint.most_input_tokens(question)
        worst = self.cost(n_input, self.max_new_tokens) or 0.0
        for n_failed in range(self.endpoint.retries + 1):
            await self.limit.wait(n_input + self.max_new_tokens)
            await self.afford(worst)
            attempt = self.ledger.ask(key, worst * self.overrun)
            try:
                reply = await self.connection.ask(question)
            except NoAnswer as error:
                self.ledger.fail(attempt, error.may_be_charged)
                if error.then != "retry" or n_failed == self.endpoint.retries:
                    raise
                if error.wait is not None:
                    self.limit.pause(error.wait)
                else:
                    longest = min(LONGEST_WAIT, FIRST_WAIT * 2**n_failed)
                    await asyncio.sleep(random.uniform(0, longest))
            else:
                cost = self.cost(reply.input_tokens, reply.output_tokens)
                # Reasoning can be longer than the limit of the answer.
                self.overrun = max(self.overrun, (cost or 0.0) / (worst or 1.0))
                self.ledger.answer(attempt, key, replace(reply, cost_usd=cost))
                self.has_answered = True
                if reply.is_answer:
                    return
                raise NoAnswer(f"no text, but {reply.finish}", then="next question")

    async def afford(self, worst: float) -> None:
        """Wait until the cap allows a request; raise NoAnswer once nothing can make it."""
        if self.stopped:
            raise NoAnswer("another question stopped it", then="stop")
        # What is under way was reckoned at less, if it was sent before the overrun was known.
        while not self.ledger.allows(
            worst * (self.overrun + (self.overrun - 1) * self.ledger.in_flight)
        ):
            if not self.ledger.in_flight:
                raise NoAnswer(
                    f"the cap of {self.ledger.cap_usd:g} USD allows no further question "
                    f"({self.ledger.spent:.6g} spent, up to {self.ledger.uncertain:.6g} more for "
                    "answers that were lost); raise cap_usd to go on",
                    then="stop",
                )
            await asyncio.sleep(CHECK_EVERY)

    def problems(self) -> Iterator[str]:
        """Say what was not answered and why, one line per reason."""
        for reason, (question, *more) in self.unanswered.items():
            others = f" and {len(more)} more" * bool(more)
            yield f"{self.endpoint.name}: no answer to {question!r:.60}{others} ({reason})"
        if self.stopped:
            yield f"{self.endpoint.name}: asked no further: {self.stopped}"
