"""The text that a model reads: turns, the chat template around them, and where the user's is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

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


def user_spans(
    format_all: Callable[[Sequence[str]], list[str]], questions: Sequence[str]
) -> list[tuple[int, int]]:
    """Return where each question stands in its prompt: its first character, and one past its last.

    A template may trim white space around a question, as many do, and change nothing else.

    Parameters
    ----------
    format_all : callable
        Turns questions into the texts of their prompts.
    questions : sequence of str

    Raises
    ------
    InputError
        If the user's text cannot be told from the template's.
    """
    framed, *prompts = format_all([STAND_IN, *questions])
    before, *others = framed.split(STAND_IN)
    for question, prompt in zip(questions, prompts, strict=True):
        texts = (question, question.strip())
        if len(others) != 1 or prompt not in [before + text + others[0] for text in texts]:
            raise InputError(
                f"The chat template alters or repeats the user's text ({question[:60]!r}), so the "
                "user's own tokens cannot be told from the template's. Use pooling mean, or give "
                "another template."
            )
    return [(len(before), len(prompt) - len(others[0])) for prompt in prompts]
