"""What the book's table of encoders says, measured on tiny models.

``python tests/compatibility.py`` writes the table anew.
"""

from __future__ import annotations

import csv
import math
import tempfile
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

import numpy as np
import tiny_gguf
import tiny_models
import torch
from architectures import ARCHITECTURES
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import resolve

TABLE = Path(__file__).resolve().parents[1] / "book" / "architectures.csv"
QUESTIONS = tiny_models.questions(12)
TOKENIZER = tiny_models.tokenizer()
PROMPTS = [TOKENIZER.convert_tokens_to_ids(question.split()) for question in QUESTIONS]


@lru_cache
def reader(key: str) -> nn.Module:
    """Return what reads text of a model as transformers makes it, never saved or loaded."""
    model, part = tiny_models.model(key), ARCHITECTURES[key].part
    return attrgetter(part)(model) if part else model


@lru_cache
def encoder(key: str, dtype: str = "float32") -> nn.Module:
    """Return the same model as users get it, from a directory."""
    with tempfile.TemporaryDirectory() as directory:
        tiny_models.save(directory, key, AutoModel)
        return load_encoder(resolve(directory), dtype=dtype)[0]


@torch.no_grad()
def states_alone(key: str, tokens: list[int]) -> Tensor:
    """Return the (L + 1, T, D) states of one prompt: no batch, no padding, no mask."""
    output = reader(key)(input_ids=torch.tensor([tokens]), output_hidden_states=True)
    return torch.cat(output.hidden_states)


@lru_cache
def truth(key: str) -> np.ndarray:
    """Return what has to be read: (L + 1, 2, N, D), pooled by `last` and by `mean`."""
    alone = [states_alone(key, tokens) for tokens in PROMPTS]
    pooled = [torch.stack([states[:, -1], states.mean(dim=1)], dim=1) for states in alone]
    return torch.stack(pooled, dim=2).numpy()


def deviations(states: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return each state's distance from the wanted one, over the spread between questions.

    Both are root mean squares over the D numbers of a state, and the spread is that of the same
    layer and pooling: (L + 1, 2, N, D) -> (L + 1, 2, N).
    """
    distance = np.square(states - wanted).mean(axis=-1) ** 0.5
    spread = wanted.var(axis=2).mean(axis=-1) ** 0.5
    return distance / spread[:, :, None]


def float32_deviation(key: str) -> float:
    """Return the worst deviation, all questions in one batch."""
    states = tiny_models.states_of(encoder(key), TOKENIZER, QUESTIONS)
    return float(deviations(states, truth(key)).max())


def bfloat16_deviation(key: str) -> float:
    """Return the median question's deviation at the worst layer and pooling.

    The median, for rounding may send a token to other experts, and that question far off.
    """
    states = tiny_models.states_of(encoder(key, "bfloat16"), TOKENIZER, QUESTIONS)
    return float(np.median(deviations(states, truth(key)), axis=-1).max())


def influence(key: str) -> tuple[bool, bool]:
    """Return whether a changed word moves state 0 of later words, and state L of earlier ones."""
    tokens = max(PROMPTS, key=len)
    middle = len(tokens) // 2
    changed = [*tokens[:middle], tokens[middle] - 1, *tokens[middle + 1 :]]
    moved = (states_alone(key, tokens) - states_alone(key, changed)).abs().amax(dim=-1) > 1e-3
    return bool(moved[0, middle + 1 :].any()), bool(moved[-1, :middle].any())


def last_state_leaves_a_block(key: str) -> bool:
    """Return whether state L is what a block returns, not a norm behind the last one."""
    outputs: dict[str, Tensor] = {}

    def keep(name):
        def hook(_module, _arguments, output):
            outputs[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [
        module.register_forward_hook(keep(name)) for name, module in reader(key).named_modules()
    ]
    last = states_alone(key, PROMPTS[0])[-1:]
    for hook in hooks:
        hook.remove()
    equal = [
        name
        for name, output in outputs.items()
        if isinstance(output, Tensor) and torch.equal(output, last)
    ]
    outermost = min(equal, key=lambda name: name.count("."))
    return outermost.rpartition(".")[-1].isdigit()  # one of a list


def properties(key: str) -> dict[str, str]:
    """Return what holds of an architecture on every machine."""
    architecture = ARCHITECTURES[key]
    context_at_0, later_words_at_last = influence(key)
    return {
        "Architecture": architecture.name,
        "`model_type`": f"`{architecture.config.model_type}`",
        "Blocks": architecture.blocks,
        "Reads": "both ways" if later_words_at_last else "left to right",
        "State 0": "first block" if context_at_0 else "embedding",
        "State L": "last block" if last_state_leaves_a_block(key) else "final norm",
        "GGUF": "yes" if key in tiny_gguf.WRITTEN else "",
    }


def bound(value: float) -> str:
    """Return 1, 2 or 5 times a power of ten, three times `value` or more: machines differ."""
    power = 10.0 ** math.floor(math.log10(3 * value))
    rounded = next(step * power for step in (1, 2, 5, 10) if step * power >= 3 * value)
    return f"{rounded:g}".replace("e-0", "e-")


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [
        properties(key)
        | {"float32": bound(float32_deviation(key)), "bfloat16": bound(bfloat16_deviation(key))}
        for key in sorted(ARCHITECTURES, key=lambda key: ARCHITECTURES[key].name.lower())
    ]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
