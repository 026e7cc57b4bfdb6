"""What an endpoint's reply means: an answer and its tokens, or in words why there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prefill_router.answers.ledger import LOST, WITHHELD, Reply

LONGEST_PAUSE = 600.0  # seconds: an endpoint that asks for a longer pause is asked no further
BROKE = re.compile("insufficient.?(quota|balance|credit|fund)", re.IGNORECASE)
CUT_OFF = re.compile("length|max_.*tokens|window", re.IGNORECASE)
MODERATED = re.compile("flagged|moderat|content.?(filter|polic|management)|safety", re.IGNORECASE)
# Fields of a message, in which something may come instead of a text.
INSTEAD = ("refusal", "tool_calls", "function_call", "reasoning_content", "reasoning", "content")
# Fields in which errors keep their words.
SAYING = ("error", "message", "detail", "msg", "metadata", "raw", "base_resp", "status_msg")


@dataclass(eq=False)
class NoAnswer(Exception):
    """A request that brought no answer.

    Attributes
    ----------
    reason : str
        Why, in words.
    may_be_charged : bool, default True
        Whether an answer may exist that got lost on its way.
    then : {"retry", "next question", "ask others", "stop"}
        Whether to try again, to give this question up, to stop asking the endpoint unless it
        answers others, or to stop asking it.
    wait : float, optional
        Seconds the endpoint asks to wait.
    """

    reason: str
    may_be_charged: bool = True
    then: str = "retry"
    wait: float | None = None


def read_reply(status: int, content: bytes, wait: float | None = None) -> Reply:
    """Return the answer that an endpoint's reply holds, or one without a text.

    Parameters
    ----------
    status : int
        Of HTTP.
    content : bytes
        The body.
    wait : float, optional
        Seconds the endpoint asks to wait.

    Returns
    -------
    Reply
        Its cost left open.

    Raises
    ------
    NoAnswer
        If it is no completion; some errors come with status 200.
    """
    body = None
    with suppress(ValueError, RecursionError):
        body = json.loads(content)
    choices = _fields(body).get("choices")
    if status < 300 and isinstance(choices, list):
        reply = _read_choice(_fields(choices[0] if choices else None), body.get("usage"))
        if reply.is_answer or not body.get("error"):
            return reply
    raise _failure(status, content.decode(errors="replace").strip() or "an empty body", body, wait)


def count_tokens(usage: Any, has_text: bool) -> tuple[int | None, int | None]:
    """Return the tokens of prompt and answer that a reply states, None where it states none.

    Some endpoints count reasoning among the tokens of the completion, some beside them: beside them
    if the total exceeds those of prompt and completion. Then the rest of the total is the answer's.

    Parameters
    ----------
    usage : object
        The reply's field of that name, whatever it holds.
    has_text : bool
        Whether anything was written, so that 0 tokens cannot be true.
    """
    usage = _fields(usage)
    n_in = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    n_out = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    if n_in and total and total >= n_in + (n_out or 0):
        n_out = total - n_in
    return n_in or None, n_out if n_out or not has_text else None


def _fields(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
    """Return a number of tokens, which may be written as text or as 12.0."""
    digits = re.fullmatch(r"([0-9]{1,12})(\.0)?", str(value).strip())
    return int(digits[1]) if digits else None


def _read_choice(choice: Mapping, usage: Any) -> Reply:
    """Return what a completion holds: no text if it was withheld, or something else came."""
    message, finish = _fields(choice.get("message")), str(choice.get("finish_reason") or "")
    if LOST.search(finish) or (choice.get("error") and not (finish and message.get("content"))):
        raise NoAnswer(f"the answer got lost ({finish or 'error'}): {_words(choice.get('error'))}")
    content = message.get("content")  # a text, or parts, such as Mistral's thinking and text
    parts = content if isinstance(content, list) else [content]
    parts = [part for part in parts if _fields(part).get("type", "text") in ("text", "output_text")]
    texts = [_fields(part).get("text", part) for part in parts]
    text = "".join(text for text in texts if isinstance(text, str))
    came = next((name for name in INSTEAD if message.get(name)), "")
    tokens = count_tokens(usage, bool(came))
    finish = "length" if CUT_OFF.search(finish) else finish
    if WITHHELD.search(finish):
        text, finish = "", f"one that was withheld ({finish})"
    elif not text.strip():
        came = came or ("an empty message" if choice else "an empty list of choices")
        text, finish = "", came + ", cut off: raise max_new_tokens" * (finish == "length")
    return Reply(text, *tokens, finish, None)


def _failure(status: int, text: str, body: Any, wait: float | None) -> NoAnswer:
    """Return what a reply that is no completion means for the question and the endpoint."""
    is_success, said, then = status < 300, _words(body), "retry"
    foreign = "an event stream" if text.startswith("data:") else "a web page" * (text[0] == "<")
    if isinstance(body, Mapping):
        foreign = f"JSON with the fields {', '.join(body) or '(none)'}"
    came = said or foreign or (text[0] in "{[" and "JSON that breaks off") or text
    reason = f"HTTP {status}{', but no chat completion' * is_success}: {came}"
    if is_success and not said:  # another service's, or broken on its way
        return NoAnswer(reason, then="ask others" if foreign else "retry")
    if is_success:
        stated = _count(_fields(_fields(body).get("error") or body).get("code"))
        unstated = 400 if "invalid" in text or MODERATED.search(text) else 502
        status = stated if stated in range(400, 600) else unstated
    if status in (401, 402, 407) or (status not in (400, 422) and BROKE.search(text)):
        then = "stop"
    elif status in (403, 404, 405, 410, 451) and not MODERATED.search(said):
        then = "ask others"
    elif status not in (408, 409, 425, 429) and status < 500:
        then = "next question"
    elif wait and wait > LONGEST_PAUSE:
        then, reason = "stop", f"it asks to wait {wait:,.0f} s; {reason}"
    # A go-between that lost an answer: whoever gave it may charge it.
    return NoAnswer(reason, status in (502, 504, 520, 524), then, wait)


def _words(error: Any, depth: int = 5) -> str:
    """Return what an error says, in whichever of its fields."""
    if isinstance(error, Mapping):
        error = [error.get(name) for name in SAYING]
    if isinstance(error, list) and depth:
        error = ": ".join(dict.fromkeys(filter(None, (_words(e, depth - 1) for e in error))))
    return error.strip() if isinstance(error, str) else ""
