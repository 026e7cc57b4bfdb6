"""The text that a model reads: turns, the chat template around them, and where the user's is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from jinja2 import TemplateError

from prefill_router.errors import InputError

Query = str | Sequence[Mapping[str, str]]
"""A question, or the messages of a conversation: mappings with ``role`` and ``content``."""
ASKS_FOR_DATE = re.compile(r"""strftime_now\(\s*(["'])(?P<format>.*?)\1\s*\)""")
STAND_IN = "THE-TEXT-OF-THE-USER"
TODAY = datetime(2025, 1, 1)  # for templates that write the date: states must not depend on it


def check_questions(questions: Sequence[str]) -> list[str]:
    """Return the questions as a list, or raise InputError if there is none or one is not text.

    Half of a surrogate pair, as JSON can hold it, is no text: no tokenizer reads it.
    """
    if len(questions) == 0:
        raise InputError("There is no question to read: the list is empty.")
    for index, question in enumerate(questions):
        if not isinstance(question, str):
            raise InputError(
                f"Question {index} is {question!r} ({type(question).__name__}), not text; "
                "drop it or convert it to str."
            )
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"Question {index} ({question[:60]!r}) holds half of a surrogate pair at character "
                f"{error.start}, which is not text; replace it or drop the question."
            ) from None
    return [str(question) for question in questions]


def turns_of(query: Query) -> list[dict[str, str]]:
    """Return the messages of a query: its own, or one user turn that holds the question.

    Raises
    ------
    InputError
        If it is neither text nor messages with a text each.
    """
    if isinstance(query, str):
        return [{"role": "user", "content": query}]
    if not query:
        raise InputError("A conversation has no message; give at least one.")
    for number, message in enumerate(query):
        fields = message if isinstance(message, Mapping) else {}
        if not all(isinstance(fields.get(name), str) for name in ("role", "content")):
            raise InputError(
                f"Message {number} is {str(message)[:60]!r}; it must be a mapping with a text each "
                "for 'role' and 'content'."
            )
    return [dict(message) for message in query]


def format_prompts(
    tokenizer,
    questions: Sequence[Query],
    template_kwargs: dict[str, Any] | None = None,
    template: str | None = None,
) -> list[str]:
    """Return the text a model reads: the turns and the generation prompt, or the bare question.

    A template that asks for today's date is told `TODAY`, whenever it is rendered.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        Its chat template is used if it has one.
    questions : sequence of str or of messages
        One a prompt; a text is one user turn.
    template_kwargs : dict, optional
        Passed to the chat template, such as ``{"enable_thinking": False}``.
    template : str, optional
        A chat template (Jinja) to use instead of the tokenizer's.

    Raises
    ------
    InputError
        If there is no question, one is not text, or the template cannot be used. A conversation of
        more than one message needs a template.
    """
    check_questions(["" if is_messages(question) else question for question in questions])
    if not (template or tokenizer.chat_template):
        return [_only_text(question) for question in questions]
    turns = [turns_of(question) for question in questions]
    try:
        return tokenizer.apply_chat_template(
            turns,
            chat_template=_on_one_day(tokenizer.get_chat_template(template)),
            tokenize=False,
            add_generation_prompt=True,
            **(template_kwargs or {}),
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise InputError(f"The chat template cannot be used: {error}") from error


def _on_one_day(template: str) -> str:
    """Return a template with `TODAY` where it would ask for the date."""
    return ASKS_FOR_DATE.sub(lambda found: repr(TODAY.strftime(found["format"])), template)


def is_messages(query: Query) -> bool:
    """Say whether a query is a conversation, not a text."""
    return isinstance(query, list | tuple)


def _only_text(query: Query) -> str:
    """Return the text of a query where there is no template to join several with."""
    turns = turns_of(query)
    if len(turns) > 1:
        raise InputError(
            f"This encoder has no chat template, so that a conversation of {len(turns)} messages "
            "cannot be rendered; give one text."
        )
    return turns[0]["content"]


def frame(format_one: Callable[[str], str]) -> tuple[str, str]:
    """Return what a template writes before and after the user's text.

    Parameters
    ----------
    format_one : callable
        Turns one question into the text of its prompt.

    Raises
    ------
    InputError
        If the user's text cannot be told from the template's.
    """
    parts = format_one(STAND_IN).split(STAND_IN)
    if len(parts) != 2:
        raise InputError(
            "The chat template alters the user's text or repeats it, so the user's own tokens "
            "cannot be told from the template's. Use pooling mean, or give another template."
        )
    return parts[0], parts[1]


def character_spans(
    prompts: Sequence[str], questions: Sequence[str], before: str, after: str
) -> list[tuple[int, int]]:
    """Return where, in characters, each question stands in its prompt.

    A template may trim white space around a question, as many do, and change nothing else.

    Raises
    ------
    InputError
        If a question does not stand in its prompt as it was given.
    """
    spans = []
    for index, (prompt, question) in enumerate(zip(prompts, questions, strict=True)):
        start, stop = len(before), len(prompt) - len(after)
        framed = prompt.startswith(before) and prompt.endswith(after)
        if not framed or prompt[start:stop] not in (question, question.strip()):
            raise InputError(
                f"The chat template alters a question ({question[:60]!r}, number {index} of its "
                "batch), so the user's own tokens cannot be found. Use pooling mean, or give "
                "another template."
            )
        spans.append((start, stop))
    return spans


def token_span(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> tuple[int, int]:
    """Return the first token that covers a character from `start` to `stop`, and one past the last.

    Parameters
    ----------
    offsets : sequence of (int, int)
        The characters that each token stands for, as tokenizers give them; a special token that
        the tokenizer has added stands for none.
    start, stop : int
        First character, and one past the last. A token that lies across either counts.

    Returns
    -------
    (int, int)
        Equal if no token does.
    """
    first, last = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    inside = np.flatnonzero((first < last) & (first < stop) & (last > start))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
