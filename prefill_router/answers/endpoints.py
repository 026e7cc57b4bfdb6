"""Models behind OpenAI-compatible endpoints: how fast to ask, and all that can go wrong."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from prefill_router.answers.ledger import Reply
from prefill_router.answers.targets import Decoding, Endpoint

# Statuses of a go-between that lost an answer, which whoever gave it may charge.
GATEWAY = {502, 504, 520, 524}
LONGEST_PAUSE = 600.0  # seconds: an endpoint that asks for a longer pause is asked no further
MOST_TOKENS = 2**40  # a count above is no count
MOST_BYTES = 16 * 2**20  # a longer body is cut off; an answer's is shorter by orders of magnitude


@dataclass(eq=False)
class NoAnswer(Exception):
    """A request that brought no answer.

    Attributes
    ----------
    reason : str
        Why, in words.
    may_be_charged : bool, default True
        Whether an answer may exist that got lost on its way.
    then : {"retry", "next question", "stop"}
        Whether to try again, to give this question up, or to stop asking the endpoint.
    wait : float, optional
        Seconds the endpoint asks to wait.
    """

    reason: str
    may_be_charged: bool = True
    then: str = "retry"
    wait: float | None = None


class Connection:
    """An open client of one endpoint.

    Parameters
    ----------
    endpoint : Endpoint
        Its key is read from the environment now.
    decoding : Decoding
        ``max_new_tokens``, ``temperature`` and ``seed`` are sent.
    """

    def __init__(self, endpoint: Endpoint, decoding: Decoding):
        self.endpoint, self.decoding = endpoint, decoding
        self._secret = endpoint.secret()
        authorization = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        self.client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **authorization},
            timeout=None,  # one for the whole answer is kept by `ask`: a slow drip never ends
            limits=httpx.Limits(max_connections=endpoint.concurrency),
            follow_redirects=True,
        )

    async def ask(self, question: str) -> Reply:
        """Put one question, once, and read no more than `MOST_BYTES` of what comes.

        Returns
        -------
        Reply
            Its cost left open.

        Raises
        ------
        NoAnswer
            If there is none.
        """
        address = f"{self.endpoint.base_url.rstrip('/')}/chat/completions"
        body = self.endpoint.request(question, self.decoding)
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self.endpoint.timeout),
                self.client.stream("POST", address, json=body) as response,
            ):
                async for chunk in response.aiter_raw():  # a few packed bytes unfold to any number
                    content += chunk[: MOST_BYTES - len(content)]
                    if len(content) == MOST_BYTES:
                        break
        except TimeoutError:
            raise NoAnswer(f"no answer within {self.endpoint.timeout:g} s") from None
        except httpx.HTTPError as error:
            sent = not isinstance(error, httpx.ConnectError)
            what = "the connection broke" if sent else "no connection"
            raise NoAnswer(f"{what} ({self._clean(error)})", may_be_charged=sent) from None
        return self._read(response, bytes(content))

    def _read(self, response: httpx.Response, content: bytes) -> Reply:
        """Return the answer that a response holds, or say why it holds none."""
        said = content.decode(errors="replace")
        if not response.is_success:
            status, wait = response.status_code, retry_after(response.headers)
            reason, then = f"HTTP {status}: {self._clean(said)}", "retry"
            if status in (401, 403, 404) or '"insufficient_quota"' in said:
                then = "stop"
            elif status not in (408, 409, 429) and status < 500:
                then = "next question"
            elif wait and wait > LONGEST_PAUSE:
                then, reason = "stop", f"it asks to wait {wait:,.0f} s; {reason}"
            raise NoAnswer(reason, status in GATEWAY, then, wait)
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            text, finish = choice["message"].get("content"), choice.get("finish_reason")
            if not isinstance(text, str | None):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            reason = f"what came is no chat completion: {self._clean(said, 80)!r}"
            raise NoAnswer(reason) from None
        usage = body["usage"] if isinstance(body.get("usage"), Mapping) else {}
        given = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        counts = [n if type(n) is int and 0 <= n < MOST_TOKENS else None for n in given]
        return Reply(self._clean(text or "", None), *counts, self._clean(finish), None)

    def _clean(self, what: object, longest: int | None = 300) -> str:
        """Return text from outside without the key, should the endpoint repeat it."""
        text = str(what)
        text = text.replace(self._secret, f"[{self.endpoint.key}]") if self._secret else text
        return text[:longest]


class RateLimit:
    """Spread requests evenly, so that no minute holds more than its limit allows.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float
        0 for no limit.
    """

    def __init__(self, requests_per_minute: float = 0, tokens_per_minute: float = 0):
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._free_at = 0.0  # on the monotonic clock
        self._paused_until = 0.0

    async def wait(self, n_tokens: int) -> None:
        """Return when a request of so many tokens may be sent."""
        start = max(time.monotonic(), self._free_at)
        self._free_at = start + max(self._per_request, n_tokens * self._per_token)
        while (ready := max(start, self._paused_until)) > (now := time.monotonic()):
            await asyncio.sleep(ready - now)

    def pause(self, seconds: float) -> None:
        """Hold every request back for so long from now, those that already wait included."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait, None if it does not say.

    `Retry-After` holds seconds or a date (RFC 9110, section 10.2.3).
    """
    text = headers.get("retry-after", "").strip()
    try:
        if date := email.utils.parsedate_tz(text):
            return max(email.utils.mktime_tz(date) - time.time(), 0.0)
        seconds = float(text)
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
