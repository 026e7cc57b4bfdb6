"""Train a model of the zoo from scratch: seeded, resumable, on a CPU or a GPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefill_router.extraction.models import quiet
from prefill_router.progress import track
from prefill_router.storage import atomic_write, fingerprint, write_json
from prefill_router.zoo.recipes import Recipe, write_card
from prefill_router.zoo.skills import answer_text, practice_queries
from prefill_router.zoo.wordings import build_tokenizer

HELD_OUT = 5000
"""Questions that a model does not practise, on which its loss is measured at the end."""
TOKENS_PER_BATCH = 2048
IGNORED = -100
MATRIX_RATE = 4e-3
OTHER_RATE = 3e-3
WARM_UP = 100
SAVE_EVERY = 500


def build_practice(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, n: int) -> list[np.ndarray]:
    """Draw and tokenise `n` questions for a model to practise.

    Returns
    -------
    list of n ndarray of int64, shape (2, time)
        Tokens: prompt, answer (with the working, if the model thinks) and end token. Labels: the
        same, but `IGNORED` at the prompt's tokens, on which there is no loss.
    """
    queries = list(track(practice_queries(recipe, n), f"{recipe.name}: questions", total=n))
    prompts = [f"<user> {query.question} <assistant>" for query in queries]
    answers = [f"{answer_text(recipe, query)} <eos>" for query in queries]
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer(answers, add_special_tokens=False)["input_ids"]
    pairs = zip(heads, tails, strict=True)
    return [np.array([head + tail, [IGNORED] * len(head) + tail]) for head, tail in pairs]


def epoch(
    practice: Sequence[np.ndarray], rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of all that `build_practice` returns: questions of similar lengths.

    Yields
    ------
    tokens, labels : ndarray of int64, shape (batch, time)
        Padded on the right. Sizes vary, so that each batch holds about `TOKENS_PER_BATCH` tokens.
    """
    lengths = np.array([example.shape[1] for example in practice])
    order = np.lexsort((rng.random(len(lengths)), lengths))
    ends = np.cumsum(lengths[order])
    bounds = np.searchsorted(ends, np.arange(TOKENS_PER_BATCH, ends[-1], TOKENS_PER_BATCH))
    parts = [part for part in np.split(order, bounds) if len(part)]
    for i in rng.permutation(len(parts)):
        tokens = np.zeros((len(parts[i]), lengths[parts[i]].max()), dtype=np.int64)
        labels = np.full_like(tokens, IGNORED)
        for row, index in enumerate(parts[i]):
            tokens[row, : lengths[index]], labels[row, : lengths[index]] = practice[index]
        yield tokens, labels


def batches(practice: Sequence[np.ndarray], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of one `epoch` after the other, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from epoch(practice, rng)


def answer_loss(model: PreTrainedModel, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the answer's tokens, given all before each.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model. Padding is on the right, where a causal model does not look, so
        no attention mask is needed.
    tokens, labels : torch.Tensor of int64, shape (batch, time)
        See `epoch`.

    Returns
    -------
    torch.Tensor
        A scalar, in nats per token.
    """
    states = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    scored = wanted != IGNORED
    logits = model.get_output_embeddings()(states[scored])
    return F.cross_entropy(logits, wanted[scored])


@torch.no_grad()
def validation_loss(
    model: PreTrainedModel, recipe: Recipe, practice: Sequence[np.ndarray]
) -> float:
    """Return the loss, in nats per token, on `HELD_OUT` questions less those in `practice`."""
    others = build_practice(replace(recipe, seed=recipe.seed + 10_000), build_tokenizer(), HELD_OUT)
    seen = {example.tobytes() for example in practice}
    others = [example for example in others if example.tobytes() not in seen]
    losses, n_tokens = [], []
    for batch in epoch(others, np.random.default_rng(0)):
        tokens, labels = (torch.from_numpy(array).to(model.device) for array in batch)
        losses.append(answer_loss(model, tokens, labels).item())
        n_tokens.append(int((labels[:, 1:] != IGNORED).sum()))
    return float(np.average(losses, weights=n_tokens))


def schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then half a cosine to 0."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP)))


def build_optimizers(model: PreTrainedModel) -> list[Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for embeddings, biases and gains."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices, others = [], []
    for p in model.parameters():
        (matrices if p.ndim == 2 and id(p) not in embeddings else others).append(p)
    return [
        torch.optim.Muon(matrices, MATRIX_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def build_model(recipe: Recipe) -> PreTrainedModel:
    """Return the model with its seeded random initial weights."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return AutoModelForCausalLM.from_config(recipe.config(), attn_implementation="sdpa")


def export(
    model: PreTrainedModel, recipe: Recipe, directory: Path, step: int, loss: float | None = None
) -> None:
    """Write a model in the hub's layout, with half-precision weights, its card and loss."""
    copied = copy.deepcopy(model).half()
    ends = {"eos_token_id": 1, "pad_token_id": 0, "max_new_tokens": 96 if recipe.thinks else 16}
    copied.generation_config = GenerationConfig(do_sample=False, **ends)
    with quiet():
        copied.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    made = {**vars(recipe), "step": step, "validation_loss": loss and round(loss, 4)}
    write_json(directory / "recipe.json", made)
    write_card(directory)


def save_state(path: Path, model: PreTrainedModel, optimizers: list[Optimizer], step: int) -> None:
    """Write the steps done, the weights and what optimisers keep of each, atomically."""
    tensors = {"step": torch.tensor(step)}
    for name, p in model.named_parameters():
        kept = {key: value for o in optimizers for key, value in o.state.get(p, {}).items()}
        tensors |= {name: p.detach()} | {f"{name} {key}": value for key, value in kept.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)


def load_state(path: Path, model: PreTrainedModel, optimizers: list[Optimizer]) -> int:
    """Restore what `save_state` wrote; return the number of steps done, 0 without a file."""
    if not path.exists():
        return 0
    tensors = load_file(path, device=str(model.device))
    owner = {p: optimizer for optimizer in optimizers for p in optimizer.param_groups[0]["params"]}
    for name, p in model.named_parameters():
        p.data = tensors[name]
        kept = {key: value for key, value in tensors.items() if key.startswith(f"{name} ")}
        owner[p].state[p] = {key.rpartition(" ")[2]: value for key, value in kept.items()}
    return int(tensors["step"])


def train(recipe: Recipe, out: Path, work: Path, device: str = "cpu") -> list[float]:
    """Train one model and write it, and its early checkpoints, below `out`.

    Parameters
    ----------
    recipe : Recipe
        What to make.
    out : pathlib.Path
        Models are written to ``out/NAME``.
    work : pathlib.Path
        Keeps the state of an unfinished training, under a name that tells recipes and practice
        apart, so that a stopped one goes on where it was.
    device : str
        A torch device.

    Returns
    -------
    list of float
        The loss at every step of this call.
    """
    model = build_model(recipe).to(device)
    if not recipe.steps:
        export(model, recipe, out / recipe.name, 0)
        return []
    optimizers = build_optimizers(model)
    practice = build_practice(recipe, build_tokenizer(), recipe.questions)
    made_from = fingerprint(vars(recipe), np.concatenate(practice, axis=1))
    state = work / f"{recipe.name}-{made_from}.safetensors"
    done = load_state(state, model, optimizers)
    losses = []
    stream = islice(batches(practice, recipe.seed), done, recipe.steps)
    steps = track(range(done, recipe.steps), f"{recipe.name}: training")
    for step, batch in zip(steps, stream, strict=True):
        for optimizer in optimizers:
            share = schedule(step, recipe.steps)
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * share
        loss = answer_loss(model, *(torch.from_numpy(array).to(device) for array in batch))
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if step + 1 in recipe.checkpoints:
            name, loss = f"{recipe.name}-step-{step + 1}", validation_loss(model, recipe, practice)
            export(model, recipe, out / name, step + 1, loss)
        if (step + 1) % SAVE_EVERY == 0:
            save_state(state, model, optimizers, step + 1)
    loss = validation_loss(model, recipe, practice)
    export(model, recipe, out / recipe.name, recipe.steps, loss)
    state.unlink(missing_ok=True)
    return losses
