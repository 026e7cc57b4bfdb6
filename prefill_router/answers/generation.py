"""Answers of a local causal language model, and how many tokens they took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from prefill_router.errors import InputError
from prefill_router.extraction.models import input_device, pad_id
from prefill_router.extraction.prompts import Prompts, token_limit


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

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; it must be 0 or positive.")


GREEDY = Decoding()


def generate(
    model,
    tokenizer,
    questions: Sequence[str],
    decoding: Decoding = GREEDY,
    batch_size: int = 256,
) -> tuple[list[str], np.ndarray]:
    """Let a causal language model answer.

    Parameters
    ----------
    model, tokenizer
        From `prefill_router.extraction.models.load_target`.
    questions : sequence of str, length N
        Each becomes one prompt, as in `prefill_router.extraction.templates.format_prompts`.
    decoding : Decoding
        How. The model's own generation settings give the end-of-text tokens and nothing else.
    batch_size : int, default 256
        Prompts at a time, of similar length.

    Returns
    -------
    answers : list of N str
        Without special tokens.
    n_tokens : int64 ndarray of shape (N,)
        Tokens generated, the end-of-text token included, padding not.

    Raises
    ------
    InputError
        If the model has no end-of-text token, or a prompt leaves no room for an answer.

    Notes
    -----
    Prompts are padded on the left and the attention mask is given, so that an answer does not
    depend on the prompts it shares a batch with (beyond rounding). Sampling is seeded and leaves
    the global generator as it was.
    """
    ends = _end_tokens(model, tokenizer)
    room = max(1, token_limit(model, tokenizer) - decoding.max_new_tokens)
    prompts = Prompts(tokenizer, room, template_kwargs=decoding.template_kwargs)
    prompts.count(questions)
    ids = prompts.ids(questions)
    sampling = {"do_sample": False}
    if decoding.temperature:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad_id(tokenizer),
        **sampling,
    )
    order = np.argsort([len(tokens) for tokens in ids], kind="stable")
    answers = [""] * len(ids)
    n_tokens = np.zeros(len(ids), dtype=np.int64)
    with _settings(model, config), torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(decoding.seed)
        for start in range(0, len(ids), batch_size):
            rows = order[start : start + batch_size]
            new = _continue(model, [ids[row] for row in rows], config).tolist()
            for row, tokens in zip(rows, new, strict=True):
                stop = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
                n_tokens[row] = stop
                answers[row] = tokenizer.decode(
                    tokens[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
    return answers, n_tokens


def _continue(model, ids: list[list[int]], config: GenerationConfig) -> torch.Tensor:
    """Return the new tokens, (B, T'), that follow prompts padded on the left."""
    width = max(map(len, ids))
    tokens = torch.tensor([[config.pad_token_id] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    device = input_device(model)
    output = model.generate(
        tokens.to(device), attention_mask=mask.to(device), generation_config=config
    )
    return output[:, width:]


def _end_tokens(model, tokenizer) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    if ends is None:
        raise InputError(
            "The model has no end-of-text token, so its answers would never end: set eos_token_id "
            "in its generation_config.json."
        )
    return list(ends) if isinstance(ends, (list, tuple)) else [ends]


@contextmanager
def _settings(model, config: GenerationConfig) -> Iterator[None]:
    """Replace the model's own generation settings, which would fill in what `config` leaves out."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
