"""From queries to token ids: the chat template, the length limit, and batches for a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from prefill_router.errors import InputError, check_known
from prefill_router.extraction.models import pad_id
from prefill_router.extraction.pooling import Batch

Query = str | Sequence[Mapping[str, str]]
"""A question, or the messages of a conversation: mappings with ``role`` and ``content``."""
Truncation = Literal["error", "left", "right"]
ASKS_FOR_DATE = re.compile(r"""strftime_now\(\s*(["'])(?P<format>.*?)\1\s*\)""")
TODAY = datetime(2025, 1, 1)  # for templates that write the date: states must not depend on it
STAND_IN = "THE-TEXT-OF-THE-USER"
LONG = 400  # times a stand-in, so that a template that cuts its messages is noticed
POSITIONS = ("max_position_embeddings", "max_seq_len", "context_length")  # as configs call it
NO_LIMIT = 1_000_000  # tokenizers that state no limit give a number beyond any prompt
COUNTED_AT_ONCE = 1024


def check_questions(questions: Sequence[str]) -> list[str]:
    """Return the questions as a list, or raise InputError if there is none or one is not text."""
    if isinstance(questions, str):
        raise InputError("queries is one text; give a list, such as [question].")
    if len(questions) == 0:
        raise InputError("There is no question to read: the list is empty.")
    return [_text(question, f"Question {index}") for index, question in enumerate(questions)]


def _text(value: Any, what: str) -> str:
    """Return a text, or raise InputError; half of a surrogate pair is none."""
    if not isinstance(value, str):
        raise InputError(
            f"{what} is {value!r} ({type(value).__name__}), not text; drop it or convert it to str."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} ({value[:60]!r}) holds half of a surrogate pair at character {error.start}, "
            "which is not text; replace or drop it."
        ) from None
    return str(value)


def turns_of(query: Query, what: str = "The question") -> list[dict[str, str]]:
    """Return the messages of a query: its own, or one user turn that holds the question.

    Raises
    ------
    InputError
        If it is neither text nor messages with a text each.
    """
    if not isinstance(query, list | tuple):
        return [{"role": "user", "content": _text(query, what)}]
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

    A template that asks for today's date is told `TODAY`, whenever it is rendered. Stand-ins for
    the messages are rendered with them; where one is not in its prompt, messages are given as lists
    of parts, as models take them that also see images.

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
        If one is not text, or the template cannot be used: it fails, or leaves out what it is
        given. A conversation of more than one message needs a template.
    """
    turns = [turns_of(question, f"Question {index}") for index, question in enumerate(questions)]
    if not (template or tokenizer.chat_template):
        if max(map(len, turns)) > 1:
            raise InputError("This encoder has no chat template; give a text, not a conversation.")
        return [turn["content"] for (turn,) in turns]
    shapes = {tuple(turn["role"] for turn in messages): messages for messages in turns}
    marked = [
        [turn | {"content": f"{STAND_IN}-{shape}-{i}-" * LONG} for i, turn in enumerate(messages)]
        for shape, messages in enumerate(shapes.values())
    ]
    reasons = []
    for form in (dict, _in_parts):  # some templates take text, some a list of parts, most both
        try:
            used = tokenizer.get_chat_template(template)
            prompts = tokenizer.apply_chat_template(
                [list(map(form, messages)) for messages in (*marked, *turns)],
                chat_template=ASKS_FOR_DATE.sub(lambda m: repr(TODAY.strftime(m["format"])), used),
                tokenize=False,
                add_generation_prompt=True,
                **(template_kwargs or {}),
            )
        except Exception as error:  # a template is a program, and can fail in any way
            reasons.append(str(error))
            continue
        said = "".join(prompts[: len(marked)]).lower().replace('"', "'")
        marks = [turn["content"].lower() for messages in marked for turn in messages]
        if all(mark in said and f"'text': '{mark}" not in said for mark in marks):
            return prompts[len(marked) :]
        reasons.append("it leaves out a message, so that the model would not see the question")
    whose = "that was given" if template else f"of {tokenizer.name_or_path or 'this tokenizer'}"
    raise InputError(
        f"The chat template {whose} cannot be used: {reasons[0]}. It begins "
        f"{str(template or tokenizer.chat_template)[:60]!r}; give one that renders every message."
    )


def _in_parts(turn: dict[str, str]) -> dict[str, Any]:
    """Return a message as models that also see images take it: its content a list of parts."""
    return turn | {"content": [{"type": "text", "text": turn["content"]}]}


def token_limit(model, tokenizer) -> int:
    """Return the longest prompt, in tokens, that model and tokenizer both say they can read."""
    stated = config_limit(model.config.get_text_config())
    limits = [stated, tokenizer.model_max_length]
    for name, module in model.named_modules():
        table = getattr(module, "weight", None) if "position" in name.rpartition(".")[2] else None
        if isinstance(table, nn.Parameter) and hasattr(module, "padding_idx"):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            if first or stated >= NO_LIMIT:  # RoBERTa and its like begin after the padding
                limits.append(len(table) - first)
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
        check_known("truncation", self.truncation, get_args(Truncation))
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}; it must be at least 1.")

    def count(self, questions: Sequence[Query]) -> np.ndarray:
        """Return the tokens of each prompt before any is cut, int64 (N,); keeps no prompt.

        Raises
        ------
        InputError
            If there is no prompt, one has no token, or one is too long and `truncation` is
            ``"error"``.
        """
        lengths = []
        for start in range(0, len(questions), COUNTED_AT_ONCE):
            chunk = self._encode(questions[start : start + COUNTED_AT_ONCE])["input_ids"]
            lengths += map(len, chunk)
        self._check_lengths(lengths, questions)
        return np.array(lengths, dtype=np.int64)

    def _check_lengths(self, lengths: list[int], questions: Sequence[Query]) -> None:
        if not lengths:
            raise InputError("There is no question to read: the list is empty.")
        if 0 in lengths:
            index = lengths.index(0)
            raise InputError(f"Question {index} ({questions[index]!r}) has no token; drop it.")
        longest = int(np.argmax(lengths))
        if lengths[longest] > self.max_tokens and self.truncation == "error":
            n_too_long = sum(length > self.max_tokens for length in lengths)
            raise InputError(
                f"{n_too_long} of {len(lengths)} prompts are longer than {self.max_tokens} tokens; "
                f"the longest is question {longest} ({questions[longest][:60]!r}...) with "
                f"{lengths[longest]}. Set truncation to right or left (-p truncation=right) to cut "
                "that end off, drop them, or raise max_tokens if it is less than the model allows."
            )
        if lengths[longest] > self.max_tokens:
            self._check_frame()

    def _check_frame(self) -> None:
        """Raise InputError if what is cut off leaves nothing of any question."""
        before, _, after = self._format([STAND_IN])[0].partition(STAND_IN)
        kept, side = (before, "before") if self.truncation == "right" else (after, "after")
        n_tokens = len(self.tokenizer(kept, add_special_tokens=False)["input_ids"])
        if n_tokens >= self.max_tokens:
            raise InputError(
                f"The chat template writes {n_tokens} tokens {side} a question, and max_tokens is "
                f"{self.max_tokens}: all prompts would be the same. Raise it or cut the other side."
            )

    def ids(self, questions: Sequence[Query]) -> list[list[int]]:
        """Return the token ids of each prompt, cut to `max_tokens`, unpadded."""
        return [self._cut(tokens) for tokens in self._encode(questions)["input_ids"]]

    def shown(self, question: Query) -> str:
        """Return a prompt as it is read, special tokens included, under a line about it."""
        (tokens,) = self.ids([question])
        has_template = self.template or self.tokenizer.chat_template
        text = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return f"{len(tokens)} tokens, with{'' if has_template else 'out'} a chat template:\n{text}"

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
        is_text = all(isinstance(question, str) for question in questions)
        if find_user and not (is_text and self.tokenizer.is_fast):
            raise InputError(
                "The user's own tokens cannot be found; give a text instead of messages, and a "
                "fast tokenizer (tokenizer.json), or use pooling mean."
            )
        encoded = self._encode(questions, offsets=find_user)
        self._check_lengths(list(map(len, encoded["input_ids"])), questions)
        ids = [torch.tensor(self._cut(tokens)) for tokens in encoded["input_ids"]]
        lengths = torch.tensor(list(map(len, ids)))
        user = torch.stack([torch.zeros_like(lengths), lengths], dim=1)
        if find_user:
            user = torch.tensor(self._user_tokens(questions, encoded["offset_mapping"]))
        padded = pad_sequence(ids, batch_first=True, padding_value=pad_id(self.tokenizer))
        return Batch(padded, lengths, user)

    def _format(self, questions: Sequence[Query]) -> list[str]:
        return format_prompts(self.tokenizer, questions, self.template_kwargs, self.template)

    def _encode(self, questions: Sequence[Query], offsets: bool = False):
        # A chat template writes the special tokens itself; adding them again would double them.
        encoded = self.tokenizer(
            self._format(questions),
            add_special_tokens=not (self.template or self.tokenizer.chat_template),
            padding=False,
            truncation=False,
            return_offsets_mapping=offsets,
            verbose=False,
        )
        begin = [self.tokenizer.bos_token_id] * 2  # a template or tokenizer may double it itself
        doubled = [tokens[:2] == begin for tokens in encoded["input_ids"]]
        for name, values in encoded.items() if any(doubled) else ():
            encoded[name] = [of[is_so:] for of, is_so in zip(values, doubled, strict=True)]
        return encoded

    def _cut(self, tokens: list) -> list:
        if self.truncation == "left":
            return tokens[-self.max_tokens :]
        return tokens[: self.max_tokens]

    def _user_tokens(self, questions: Sequence[str], offsets: list) -> list[tuple[int, int]]:
        """Return the first token of each question's characters, and one past the last.

        A template may trim white space around a question, as many do, and change nothing else.
        """
        framed, *prompts = self._format([STAND_IN, *questions])
        before, *others = framed.split(STAND_IN)
        found = []
        for question, prompt, places in zip(questions, prompts, offsets, strict=True):
            texts = (question, question.strip())
            if len(others) != 1 or prompt not in [before + text + others[0] for text in texts]:
                raise InputError(
                    f"The chat template alters or repeats the user's text ({question[:60]!r}), so "
                    "the user's own tokens cannot be told from the template's. Use pooling mean, "
                    "or give another template."
                )
            start, stop = len(before), len(prompt) - len(others[0])
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
