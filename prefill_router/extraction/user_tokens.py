"""Which tokens of a prompt are the user's own, and which the chat template's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prefill_router.errors import InputError

STAND_IN = "THE-TEXT-OF-THE-USER"


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
