"""From questions to token ids: chat template, length limit, batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np

from prefill_router.errors import InputError, did_you_mean

Truncation = Literal["error", "left", "right"]
TRUNCATIONS = get_args(Truncation)
NO_LIMIT = 1_000_000  # tokenizers that state no limit give a number beyond any prompt


def check_questions(questions: Sequence[str]) -> list[str]:
    """Return the questions as a list, or raise InputError if there is none or one is not text."""
    if len(questions) == 0:
        raise InputError("There is no question to read: the list is empty.")
    for index, question in enumerate(questions):
        if not isinstance(question, str):
            raise InputError(
                f"Question {index} is {question!r} ({type(question).__name__}), not text; "
                "drop it or convert it to str."
            )
    return [str(question) for question in questions]


def format_prompts(
    tokenizer, questions: Sequence[str], template_kwargs: dict[str, Any] | None = None
) -> list[str]:
    """Return the text a model reads: one user turn and the generation prompt, or the bare question.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        Its chat template is used if it has one.
    questions : sequence of str
        One a prompt.
    template_kwargs : dict, optional
        Passed to the chat template, such as ``{"enable_thinking": False}``.

    Raises
    ------
    InputError
        If there is no question, or one is not text.
    """
    questions = check_questions(questions)
    if not tokenizer.chat_template:
        return questions
    turns = [[{"role": "user", "content": question}] for question in questions]
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, **(template_kwargs or {})
    )


def token_limit(model, tokenizer) -> int:
    """Return the longest prompt, in tokens, that model and tokenizer both say they can read."""
    positions = getattr(model.config, "max_position_embeddings", None) or NO_LIMIT
    return min(positions, tokenizer.model_max_length, NO_LIMIT)


def tokenize(
    tokenizer,
    questions: Sequence[str],
    max_tokens: int,
    truncation: Truncation = "error",
    template_kwargs: dict[str, Any] | None = None,
) -> tuple[list[list[int]], int]:
    """Turn questions into token ids, unpadded, and say how many had to be cut.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        Whatever side it pads, and whatever limits are saved with it: neither is used.
    questions : sequence of str
        One a prompt.
    max_tokens : int
        The most tokens of a prompt.
    truncation : {"error", "left", "right"}, default "error"
        What to do with longer prompts: refuse, or drop tokens on that side.
    template_kwargs : dict, optional
        As for `format_prompts`.

    Returns
    -------
    ids : list of N lists of int
    n_truncated : int

    Raises
    ------
    InputError
        If a prompt has no token, or is too long and `truncation` is ``"error"``.
    """
    if truncation not in TRUNCATIONS:
        known = did_you_mean(truncation, TRUNCATIONS)
        raise InputError(f"truncation {truncation!r} is unknown.{known}")
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; it must be at least 1.")
    prompts = format_prompts(tokenizer, questions, template_kwargs)
    # A chat template writes the special tokens itself; adding them again would double them.
    ids = tokenizer(
        prompts,
        add_special_tokens=not tokenizer.chat_template,
        padding=False,
        truncation=False,
        verbose=False,
    )["input_ids"]
    too_long = [index for index, tokens in enumerate(ids) if len(tokens) > max_tokens]
    if too_long and truncation == "error":
        longest = max(too_long, key=lambda index: len(ids[index]))
        raise InputError(
            f"{len(too_long)} of {len(ids)} prompts are longer than {max_tokens} tokens; the "
            f"longest is question {longest} ({questions[longest][:60]!r}...) with "
            f"{len(ids[longest])}. Drop them, raise max_tokens if the model allows, or set "
            "truncation to left or right."
        )
    for index in too_long:
        ids[index] = ids[index][-max_tokens:] if truncation == "left" else ids[index][:max_tokens]
    for index, tokens in enumerate(ids):
        if not tokens:
            raise InputError(f"Question {index} ({questions[index]!r}) has no token; drop it.")
    return ids, len(too_long)


def batches(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Yield rows of similar length, so many that their padded batch is within the budget.

    A prompt longer than the budget gets a batch of its own. The longest come first: what does not
    fit into memory fails at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, token_budget // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop
