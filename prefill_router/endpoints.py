"""Models behind OpenAI-compatible endpoints: who they are, and one question put to one of them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import openai
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from prefill_router.errors import InputError
from prefill_router.generation import Decoding
from prefill_router.ledger import Reply
from prefill_router.rate_limits import retry_after
from prefill_router.storage import fingerprint

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
OVERHEAD = 64
"""Tokens that a chat template may add to a prompt, for the worst case of its cost."""


class Price(BaseModel):
    """What a target charges."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: NonNegativeFloat = Field(description="USD per million input tokens")
    output: NonNegativeFloat = Field(description="USD per million output tokens")


class Endpoint(BaseModel):
    """A target behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="what the target is called in labels and router")
    base_url: str = Field(description="the endpoint, as https://api.openai.com/v1")
    model: str = Field(min_length=1, description="the model's name at the endpoint")
    key: str = Field(
        "",
        pattern=r"^([A-Z_][A-Z0-9_]*)?$",
        description="environment variable that holds the key (never the key itself); or empty",
    )
    price: Price | None = Field(
        None, description="USD per million tokens: {input: ..., output: ...}; else from prices"
    )
    system: str = Field("", description="system message, sent before each question")
    extra: dict[str, Any] = Field({}, description="more fields of the request's JSON body")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="how the endpoint calls the longest answer"
    )
    send_temperature: bool = Field(
        True, description="false for reasoning models that refuse a temperature"
    )
    concurrency: PositiveInt = Field(4, le=256, description="requests at a time")
    requests_per_minute: NonNegativeFloat = Field(0, description="at most so many; 0: no limit")
    tokens_per_minute: NonNegativeFloat = Field(
        0, description="at most so many, prompt and longest answer counted; 0: no limit"
    )
    timeout: float = Field(
        120, gt=0, description="seconds until an answer must be there, all of it"
    )
    retries: NonNegativeInt = Field(6, description="more attempts at a question that failed")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as https://HOST/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("leave keys out of the address; name an environment variable in key")
        return value

    @model_validator(mode="after")
    def _keeps_key_private(self) -> Endpoint:
        parts = urlsplit(self.base_url)
        if self.key and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError("a key is sent over https only (or to this machine): use https://")
        return self

    def secret(self) -> str:
        """Return the key from the environment, the empty string if none is named.

        Raises
        ------
        InputError
            If the variable is not set, or holds what no key is.
        """
        if not self.key:
            return ""
        secret = os.environ.get(self.key, "").strip()
        if not secret:
            raise InputError(
                f"Target {self.name!r}: the environment variable {self.key} is not set; it must "
                "hold the endpoint's key."
            )
        if not (secret.isascii() and secret.isprintable()) or " " in secret:
            raise InputError(f"Target {self.name!r}: {self.key} holds characters that no key has.")
        return secret

    def messages(self, question: str) -> list[dict[str, str]]:
        """Return the chat that asks a question."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": question}]

    def most_input_tokens(self, question: str) -> int:
        """Return what a prompt's tokens cannot exceed: a token covers at least a byte of text."""
        return len(self.system.encode()) + len(question.encode()) + OVERHEAD

    def answer_key(self, question: str, decoding: Decoding) -> str:
        """Return what identifies an answer: not the address, which may move, nor the limits."""
        said = {"name": self.name, "model": self.model, "messages": self.messages(question)}
        return fingerprint(said | {"body": self.body(decoding)})

    def body(self, decoding: Decoding) -> dict[str, Any]:
        """Return the fields of a request besides model and messages."""
        fields: dict[str, Any] = {self.limit_field: decoding.max_new_tokens}
        if self.send_temperature:
            fields["temperature"] = decoding.temperature
        if decoding.temperature:
            fields["seed"] = decoding.seed
        return fields | self.extra


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
        )
        # These, too, it takes from the environment, where they are meant for another endpoint.
        self._client.organization = self._client.project = None

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
            if isinstance(cause, httpx.ConnectError):
                raise Refused(f"no connection ({self._clean(cause)})", "retry") from None
            raise Lost(f"the connection broke ({self._clean(cause or error)})") from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: openai.APIStatusError) -> Refused:
        status, reason = error.status_code, f"HTTP {error.status_code}: {self._clean(error)}"
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
    return value if type(value) is int and value >= 0 else None
