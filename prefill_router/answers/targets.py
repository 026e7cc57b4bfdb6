"""Whom a loop asks, and how: local models by name, and those behind OpenAI-compatible endpoints."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from prefill_router.errors import InputError
from prefill_router.storage import fingerprint
from prefill_router.validation import Settings, field

# Hosts that are this machine, which is reached through no proxy.
LOOPBACK = re.compile(r"(.+\.)?localhost|127(\.[0-9]+){3}|0\.0\.0\.0|::1?")
# Fields of a request that decide who is asked what, and what it costs at most.
OURS = {"model", "messages", "max_tokens", "max_completion_tokens", "n", "best_of", "stream"}
OVERHEAD = 64  # tokens that a chat template may add to a prompt, for the worst case of its cost


@dataclass(frozen=True)
class Decoding:
    """How answers are generated; everything here changes what is said.

    Attributes
    ----------
    max_new_tokens : int
        Where an answer is cut off.
    temperature : float
        0 takes the likeliest token at each step; above 0 samples from the whole distribution.
    seed : int
        For sampling.
    dtype : str
        Type the model computes in.
    template_kwargs : dict or None
        Passed to the chat template.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    dtype: str = "float32"
    template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or not 0 <= self.temperature < float("inf"):
            raise InputError(f"{self}: max_new_tokens must be 1 or more, temperature 0 or more.")


class Price(Settings):
    """What a target charges."""

    input: NonNegativeFloat = field(..., "USD per million input tokens")
    output: NonNegativeFloat = field(..., "USD per million output tokens")


class LocalTarget(Settings):
    """A target on this machine that has a price."""

    name: str = field(..., "a directory, a hub name or zoo/NAME", min_length=1)
    price: Price = field(..., "USD per million tokens: {input: ..., output: ...}")


class Endpoint(Settings):
    """A target behind an OpenAI-compatible endpoint."""

    name: str = field(
        ...,
        "what the target is called in labels and router; renamed, it is asked anew",
        min_length=1,
    )
    base_url: str = field(..., "the endpoint up to its version, as https://api.openai.com/v1")
    model: str = field(..., "the model's name at the endpoint", min_length=1)
    key: str = field(
        "",
        "environment variable that holds the key (never the key itself); or empty",
        pattern=r"^([A-Z_][A-Z0-9_]*)?$",
    )
    price: Price | None = field(
        None, "USD per million tokens: {input: ..., output: ...}; else from prices"
    )
    system: str = field("", "system message, sent before each question")
    extra: dict[str, Any] = field({}, "more fields of the request's JSON body")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = field(
        "max_tokens", "how the endpoint calls the longest answer"
    )
    send_temperature: bool = field(True, "false for reasoning models that refuse a temperature")
    concurrency: PositiveInt = field(4, "requests at a time", le=256)
    requests_per_minute: NonNegativeFloat = field(0, "at most so many; 0: no limit")
    tokens_per_minute: NonNegativeFloat = field(
        0, "at most so many, prompt and longest answer counted; 0: no limit"
    )
    timeout: float = field(120, "seconds until an answer must be there, all of it", gt=0)
    retries: NonNegativeInt = field(6, "more attempts at a question that failed")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        value = re.sub("(/chat)?/completions$", "", value.strip().rstrip("/")).rstrip("/")
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or " " in value:
            raise ValueError("write it as https://HOST/v1")
        if parts.username or parts.password or "key" in parts.query:
            raise ValueError("leave keys out of the address; name an environment variable in key")
        if parts.query or parts.fragment:
            raise ValueError("leave ? and # out; Azure's address /openai/v1 needs no api-version")
        return value

    @field_validator("key")
    @classmethod
    def _is_kept_private(cls, value: str, others) -> str:
        parts = urlsplit(others.data.get("base_url", ""))
        if value and parts.scheme == "http" and not LOOPBACK.fullmatch(parts.hostname):
            raise ValueError("a key is sent over https only (or to this machine): use https://")
        return value

    @field_validator("extra")
    @classmethod
    def _leaves_costs_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OURS & value.keys()):
            raise ValueError(f"{taken[0]} is set by the collection, which keeps to the cap by it")
        return value

    def secret(self) -> str:
        """Return the key from the environment, the empty string if none is named.

        Raises
        ------
        InputError
            If the variable is not set, or holds what no key is.
        """
        secret = os.environ.get(self.key, "").strip() if self.key else ""
        if self.key and not re.fullmatch("[!-~]+", secret):
            raise InputError(
                f"Target {self.name!r}: the environment variable {self.key} is not set, or holds "
                "what no key does; set it to the endpoint's key."
            )
        return secret

    def most_input_tokens(self, question: str) -> int:
        """Return what a prompt's tokens cannot exceed: a token covers at least a byte of text."""
        extra = len(json.dumps(self.extra, default=str)) if self.extra else 0  # tools, schemata
        return len(self.system.encode()) + len(question.encode()) + extra + OVERHEAD

    def request(self, question: str, decoding: Decoding) -> dict[str, Any]:
        """Return the body of the request that asks a question."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, {"role": "user", "content": question}]
        fields = {"model": self.model, "messages": messages}
        fields[self.limit_field] = decoding.max_new_tokens
        if self.send_temperature:
            # 0 and 0.0 are one temperature, and one answer: its key is made of this
            fields["temperature"] = float(decoding.temperature) if decoding.temperature else 0
        if decoding.temperature:
            fields["seed"] = decoding.seed
        return fields | self.extra

    def answer_key(self, question: str, decoding: Decoding) -> str:
        """Return what identifies an answer: not the address, which may move, nor the limits."""
        body = self.request(question, decoding)
        said = {"name": self.name, "model": body.pop("model"), "messages": body.pop("messages")}
        return fingerprint(said | {"body": body})
