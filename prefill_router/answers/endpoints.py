"""Models behind OpenAI-compatible endpoints: how they are reached, and how fast to ask."""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
import urllib.request
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import httpx

from prefill_router.answers.ledger import Reply
from prefill_router.answers.replies import NoAnswer, read_reply
from prefill_router.answers.targets import LOOPBACK, Decoding, Endpoint
from prefill_router.errors import InputError

MOST_BYTES = 16 * 2**20  # a longer body is cut off; an answer's is shorter by orders of magnitude


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
        self._url = url = httpx.URL(f"{endpoint.base_url}/chat/completions")
        is_direct = LOOPBACK.fullmatch(url.host) or urllib.request.proxy_bypass(url.netloc.decode())
        proxies = {} if is_direct else urllib.request.getproxies()
        proxy = proxies.get(url.scheme) or proxies.get("all") or ""
        proxy_host = proxy.rpartition("@")[2]  # without its password
        self._place = f", at {url}" + f", through the proxy {proxy_host}" * bool(proxy)
        authorization = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        try:
            self.client = httpx.AsyncClient(
                headers={"Accept-Encoding": "identity", **authorization},
                timeout=None,  # one for the whole answer is kept by `ask`: a slow drip never ends
                limits=httpx.Limits(max_connections=endpoint.concurrency),
                follow_redirects=True,
                trust_env=not LOOPBACK.fullmatch(url.host),
            )
        except (ValueError, ImportError, httpx.InvalidURL):  # which may repeat the password
            raise InputError(f"HTTP(S)_PROXY: write {proxy_host} as http://HOST:PORT.") from None

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
        try:
            reply = await self._ask(self.endpoint.request(question, self.decoding))
        except NoAnswer as error:
            error.reason = self._shown(error.reason) + self._place
            raise
        return replace(reply, text=self._clean(reply.text), finish=self._shown(reply.finish))

    async def _ask(self, body: dict[str, object]) -> Reply:
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self.endpoint.timeout),
                self.client.stream("POST", self._url, json=body) as response,
            ):
                async for chunk in response.aiter_raw():  # a few packed bytes unfold to any number
                    content += chunk[: MOST_BYTES - len(content)]
                    if len(content) == MOST_BYTES:
                        break
        except TimeoutError:
            raise NoAnswer(f"no answer within {self.endpoint.timeout:g} s") from None
        except httpx.HTTPError as error:
            sent = not isinstance(error, httpx.ConnectError | httpx.ProxyError)
            what = "the connection broke" if sent else "no connection"
            raise NoAnswer(f"{what} ({error})", may_be_charged=sent) from None
        with suppress(zlib.error):  # packed by a go-between, though that was not asked for
            content = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, MOST_BYTES)
        return read_reply(response.status_code, bytes(content), retry_after(response.headers))

    def _clean(self, text: str) -> str:
        """Return text from outside without the key, should the endpoint repeat it."""
        return text.replace(self._secret, f"[{self.endpoint.key}]") if self._secret else text

    def _shown(self, text: str) -> str:
        """Return text from outside for a terminal: a line without the key or control characters."""
        return repr(" ".join(self._clean(text).split())[:300])[1:-1]


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
