"""Train a model of the zoo from scratch: seeded, resumable, on a CPU or a GPU."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from prefill_router.extraction.models import quiet
from prefill_router.progress import track
from prefill_router.storage import atomic_write, fingerprint, write_json
from prefill_router.zoo.cards import write_card
from prefill_router.zoo.practice import IGNORED, POOL, batches, build_practice
from prefill_router.zoo.recipes import Recipe
from prefill_router.zoo.vocabulary import build_tokenizer

MATRIX_RATE = 4e-3
OTHER_RATE = 3e-3
WARM_UP = 100
SAVE_EVERY = 500


def answer_loss(model: PreTrainedModel, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the answer's tokens, given all before each.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model. Padding is on the right, where a causal model does not look, so
        no attention mask is needed.
    tokens, labels : torch.Tensor of int64, shape (batch, time)
        See `practice.batches`.

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


def export(model: PreTrainedModel, recipe: Recipe, directory: Path, step: int) -> None:
    """Write a model in the hub's layout, with half-precision weights and its card."""
    limit = 96 if recipe.thinks else 16
    copy = AutoModelForCausalLM.from_config(recipe.config())
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=1, pad_token_id=0
    )
    with quiet():
        copy.half().save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    write_json(directory / "recipe.json", {**vars(recipe), "step": step})
    write_card(directory, recipe, step)


def save_state(path: Path, model: PreTrainedModel, optimizers: list[Optimizer], step: int) -> None:
    """Write weights, optimiser states and the number of steps done, atomically."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, model: PreTrainedModel, optimizers: list[Optimizer]) -> int:
    """Restore what `save_state` wrote; return the number of steps done, 0 without a file."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(stored)
    return state["step"]


def train(
    recipe: Recipe, out: Path, work: Path, device: str = "cpu", n_questions: int = POOL
) -> list[float]:
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
    n_questions : int
        Number of practice questions.

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
    practice = build_practice(recipe, build_tokenizer(), n_questions)
    made_from = fingerprint(vars(recipe), np.concatenate(practice.tokens), practice.prompt_lengths)
    state = work / f"{recipe.name}-{made_from}.pt"
    done = load_state(state, model, optimizers)
    losses = []
    stream = islice(batches(practice, recipe.seed), done, recipe.steps)
    steps = track(range(done, recipe.steps), f"{recipe.name}: training")
    for step, batch in zip(steps, stream, strict=True):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * schedule(step, recipe.steps)
        tokens, labels = (torch.from_numpy(array).to(device) for array in batch)
        loss = answer_loss(model, tokens, labels)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if step + 1 in recipe.checkpoints:
            export(model, recipe, out / f"{recipe.name}-step-{step + 1}", step + 1)
        if (step + 1) % SAVE_EVERY == 0:
            save_state(state, model, optimizers, step + 1)
    export(model, recipe, out / recipe.name, recipe.steps)
    state.unlink(missing_ok=True)
    return losses
