"""From queries to token ids: the length limit, and batches for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.models import pad_id
from prefill_router.extraction.pooling import Batch
from prefill_router.extraction.templates import (
    Query,
    check_questions,
    format_prompts,
    is_messages,
    user_spans,
)

Truncation = Literal["error", "left", "right"]
TRUNCATIONS = get_args(Truncation)
POSITIONS = ("max_position_embeddings", "max_seq_len", "context_length")  # as configs call it
NO_LIMIT = 1_000_000  # tokenizers that state no limit give a number beyond any prompt
COUNTED_AT_ONCE = 1024


def token_limit(model, tokenizer) -> int:
    """Return the longest prompt, in tokens, that model and tokenizer both say they can read."""
    limits = [config_limit(model.config.get_text_config()), tokenizer.model_max_length]
    for name, module in model.named_modules():
        counts = "position" in name.rpartition(".")[2] and isinstance(module, nn.Embedding)
        if counts and module.padding_idx is not None:  # RoBERTa and its like begin after it
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits)


def config_limit(config) -> int:
    """Return the longest prompt that a model's text config says it can read."""
    return min(getattr(config, name, None) or NO_LIMIT for name in POSITIONS)


def check_max_tokens(max_tokens: int, limit: int) -> None:
    """Raise InputError if prompts of `max_tokens` are longer than a model reads."""
    if max_tokens > limit:
        raise InputError(f"max_tokens is {max_tokens}; this model reads at most {limit} tokens.")


@dataclass(frozen=True)
class Prompts:
    """How questions become prompts of token ids.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        Whatever side it pads, and whatever limits are saved with it: neither is used.
    max_tokens : int
        The most tokens of a prompt.
    truncation : {"error", "left", "right"}, default "error"
        What to do with longer prompts: refuse, or drop tokens on that side.
    template_kwargs, template
        As for `format_prompts`.

    Raises
    ------
    InputError
        If `max_tokens` or `truncation` cannot be used.
    """

    tokenizer: Any
    max_tokens: int
    truncation: Truncation = "error"
    template_kwargs: dict[str, Any] | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.truncation not in TRUNCATIONS:
            known = did_you_mean(self.truncation, TRUNCATIONS)
            raise InputError(f"truncation {self.truncation!r} is unknown.{known}")
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}; it must be at least 1.")

    def count(self, questions: Sequence[Query]) -> np.ndarray:
        """Return the tokens of each prompt before any is cut, int64 (N,); keeps no prompt.

        Raises
        ------
        InputError
            If a prompt has no token, or is too long and `truncation` is ``"error"``.
        """
        if len(questions) == 0:
            check_questions(questions)
        lengths = []
        for start in range(0, len(questions), COUNTED_AT_ONCE):
            chunk = self._encode(questions[start : start + COUNTED_AT_ONCE])["input_ids"]
            lengths += [len(tokens) for tokens in chunk]
        self._check_lengths(lengths, questions)
        return np.array(lengths, dtype=np.int64)

    def _check_lengths(self, lengths: list[int], questions: Sequence[Query]) -> None:
        if 0 in lengths:
            index = lengths.index(0)
            raise InputError(f"Question {index} ({questions[index]!r}) has no token; drop it.")
        longest = int(np.argmax(lengths))
        if lengths[longest] > self.max_tokens and self.truncation == "error":
            n_too_long = sum(length > self.max_tokens for length in lengths)
            raise InputError(
                f"{n_too_long} of {len(lengths)} prompts are longer than {self.max_tokens} tokens; "
                f"the longest is question {longest} ({questions[longest][:60]!r}...) with "
                f"{lengths[longest]}. Drop them, raise max_tokens if the model allows, or set "
                "truncation to left or right."
            )

    def ids(self, questions: Sequence[Query]) -> list[list[int]]:
        """Return the token ids of each prompt, cut to `max_tokens`, unpadded."""
        return [self._cut(tokens) for tokens in self._encode(questions)["input_ids"]]

    def batch(self, questions: Sequence[Query], find_user: bool = False) -> Batch:
        """Return prompts as one batch, padded on the right.

        Parameters
        ----------
        questions : sequence of str or of messages
        find_user : bool, default False
            Whether to look for the user's own tokens.

        Raises
        ------
        InputError
            As for `count`, or if the user's own tokens are wanted and cannot be found.
        """
        if find_user:
            self._check_user(questions)
        encoded = self._encode(questions, offsets=find_user)
        self._check_lengths([len(tokens) for tokens in encoded["input_ids"]], questions)
        ids = [self._cut(tokens) for tokens in encoded["input_ids"]]
        lengths = torch.tensor([len(tokens) for tokens in ids])
        user = torch.stack([torch.zeros_like(lengths), lengths], dim=1)
        if find_user:
            user = torch.tensor(self._user_tokens(questions, encoded["offset_mapping"]))
        padding, width = pad_id(self.tokenizer), int(lengths.max())
        padded = [tokens + [padding] * (width - len(tokens)) for tokens in ids]
        return Batch(torch.tensor(padded), lengths, user)

    def _format(self, questions: Sequence[Query]) -> list[str]:
        return format_prompts(self.tokenizer, questions, self.template_kwargs, self.template)

    def _encode(self, questions: Sequence[Query], offsets: bool = False):
        # A chat template writes the special tokens itself; adding them again would double them.
        return self.tokenizer(
            self._format(questions),
            add_special_tokens=not (self.template or self.tokenizer.chat_template),
            padding=False,
            truncation=False,
            return_offsets_mapping=offsets,
            verbose=False,
        )

    def _cut(self, tokens: list) -> list:
        if self.truncation == "left":
            return tokens[-self.max_tokens :]
        return tokens[: self.max_tokens]

    def _check_user(self, questions: Sequence[Query]) -> None:
        if any(map(is_messages, questions)) or not self.tokenizer.is_fast:
            raise InputError(
                "The user's own tokens cannot be found; give a text instead of messages, and a "
                "fast tokenizer (tokenizer.json), or use pooling mean."
            )

    def _user_tokens(self, questions: Sequence[str], offsets: list) -> list[tuple[int, int]]:
        """Return the first token of each question's characters, and one past the last."""
        found = []
        spans = user_spans(self._format, questions)
        for question, places, (start, stop) in zip(questions, offsets, spans, strict=True):
            # A special token that the tokenizer has added stands for no character
            own = [
                position
                for position, (first, last) in enumerate(self._cut(places))
                if first < last and first < stop and last > start
            ]
            if not own:
                raise InputError(
                    f"Of question {question[:60]!r} no token of its own is read, so there is "
                    "nothing for a user_ pooling; drop it, raise max_tokens, or use mean."
                )
            found.append((own[0], own[-1] + 1))
        return found
