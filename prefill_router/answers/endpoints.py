"""One question put to a model behind an OpenAI-compatible endpoint, and all that can go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import httpx
import openai

from prefill_router.answers.generation import Decoding
from prefill_router.answers.ledger import Reply
from prefill_router.answers.rate_limits import retry_after
from prefill_router.answers.targets import Endpoint

GATEWAY = {502, 504, 520, 524}
"""Statuses of a go-between that lost an answer, which whoever gave it may charge."""
MOST_TOKENS = 2**40
"""A count above is no count."""
MOST_BYTES = 16 * 2**20
"""A longer body is not read to its end; an answer's is shorter by orders of magnitude."""


class Refused(Exception):
    """An attempt that was turned down, for which nothing is charged.

    Attributes
    ----------
    wait : float or None
        Seconds the endpoint asks to wait.
    kind : {"retry", "query", "endpoint"}
        Whether to try again, to give this question up, or to stop asking the endpoint.
    """

    def __init__(self, reason: str, kind: str, wait: float | None = None):
        super().__init__(reason)
        self.kind, self.wait = kind, wait


class Lost(Exception):
    """An attempt whose answer did not arrive, though it may be charged."""


class TooLong(Exception):
    """A body that is not read, or not to its end."""


class _Bounded(httpx.AsyncByteStream):
    """A response's body, of which no more than `MOST_BYTES` are read."""

    def __init__(self, response: httpx.Response):
        self._stream, self._fails = response.stream, response.is_error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        n = 0
        async for chunk in self._stream:
            n += len(chunk)
            if n > MOST_BYTES:
                if self._fails:
                    return  # the status says enough
                raise TooLong(f"the answer is longer than {MOST_BYTES:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx.Response) -> None:
    if (coding := response.headers.get("content-encoding", "identity")) != "identity":
        # a few packed bytes can unfold to any number
        raise TooLong(f"the answer is compressed ({coding[:20]}), though that was not accepted")
    response.stream = _Bounded(response)


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
        self.endpoint = endpoint
        self._secret = endpoint.secret()
        self._body = endpoint.body(decoding)
        self._client = openai.AsyncOpenAI(
            # Without one the client would take, and send, that of OPENAI_API_KEY.
            api_key=self._secret or "none",
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=0,  # every attempt passes the cap and the limits
            http_client=openai.DefaultAsyncHttpxClient(
                headers={"Accept-Encoding": "identity"}, event_hooks={"response": [_bound]}
            ),
        )
        # These, too, it takes from the environment, where they are meant for another endpoint.
        self._client.organization = self._client.project = None
        self._client._custom_headers = {}  # OPENAI_CUSTOM_HEADERS, which may hold keys

    async def ask(self, question: str) -> Reply:
        """Put one question, once.

        Returns
        -------
        Reply
            Its cost left open.

        Raises
        ------
        Refused, Lost
            If there is no answer.
        """
        create = self._client.chat.completions.with_raw_response.create
        request = create(
            model=self.endpoint.model,
            messages=self.endpoint.messages(question),
            extra_body=self._body,
        )
        try:
            # The client's own timeout is one between bytes, which a slow drip never exceeds.
            response = await asyncio.wait_for(request, self.endpoint.timeout)
            return self._read(response.http_response.content)
        except (TimeoutError, openai.APITimeoutError):
            raise Lost(f"no answer within {self.endpoint.timeout:g} s") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if isinstance(cause, TooLong):
                raise Lost(self._clean(cause)) from None
            if isinstance(cause, httpx.ConnectError):
                raise Refused(f"no connection ({self._clean(cause)})", "retry") from None
            raise Lost(f"the connection broke ({self._clean(cause or error)})") from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: openai.APIStatusError) -> Refused | Lost:
        status, reason = error.status_code, f"HTTP {error.status_code}: {self._clean(error)}"
        if status in GATEWAY:
            return Lost(reason)
        if status in (401, 403, 404) or error.code == "insufficient_quota":
            return Refused(reason, "endpoint")
        if status in (408, 409, 429) or status >= 500:
            return Refused(reason, "retry", retry_after(error.response.headers))
        return Refused(reason, "query")

    def _read(self, content: bytes) -> Reply:
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            text, finish = choice["message"].get("content"), choice.get("finish_reason")
            if not isinstance(text, str | None):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            said = self._clean(content.decode(errors="replace"), 80)
            raise Lost(f"what came is no chat completion: {said!r}") from None
        usage = body.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        counts = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(self._clean(text or "", None), *counts, self._clean(finish), None)

    def _clean(self, what: object, longest: int | None = 300) -> str:
        """Return text from outside without the key, should the endpoint repeat it."""
        text = str(what)
        return (text.replace(self._secret, f"[{self.endpoint.key}]") if self._secret else text)[
            :longest
        ]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < MOST_TOKENS else None
