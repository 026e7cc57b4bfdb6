"""Train a model of the zoo from scratch: seeded, resumable, on a CPU or a GPU."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from prefill_router.extraction.models import quiet
from prefill_router.progress import track
from prefill_router.storage import atomic_write, fingerprint, write_json
from prefill_router.zoo.cards import write_card
from prefill_router.zoo.practice import IGNORED, Practice, batches, build_practice
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


def build_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for embeddings, biases and gains."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding)
                  for p in m.parameters()}  # fmt: skip
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in chosen]
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
    tokenizer = build_tokenizer()
    limit = 96 if recipe.thinks else 16
    copy = AutoModelForCausalLM.from_config(recipe.config())
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=1, pad_token_id=0
    )
    with quiet():
        copy.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_json(directory / "recipe.json", {**vars(recipe), "step": step})
    write_card(directory, recipe, step)


class Resume:
    """The state of a training run on disk, so that a stopped run goes on where it was.

    Parameters
    ----------
    directory : pathlib.Path
        Where the state is kept until the run is finished.
    recipe, steps, practice
        What the run is made from: the state of another one is left alone.
    """

    def __init__(self, directory: Path, recipe: Recipe, steps: int, practice: Practice):
        made_from = vars(recipe), steps, np.concatenate(practice.tokens), practice.prompt_lengths
        self.path = directory / f"{recipe.name}-{fingerprint(*made_from)}.safetensors"

    def save(
        self, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], step: int
    ) -> None:
        """Write weights and moments, atomically."""
        tensors = {f"model/{k}": v for k, v in model.named_parameters()}
        for o, optimizer in enumerate(optimizers):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{o}/{i}/{k}": v for k, v in state.items()}
        with atomic_write(self.path) as temporary:
            tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
            save_file(tensors, temporary, metadata={"step": str(step)})

    def load(self, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer]) -> int:
        """Restore weights and moments; return the number of steps done (0 without a file)."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as stored:
            step = int(stored.metadata()["step"])
            tensors = {name: stored.get_tensor(name) for name in stored.offset_keys()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model/{name}"])
        for o, optimizer in enumerate(optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"optimizer/{o}/"):
                    _, _, i, key = name.split("/")
                    state.setdefault(int(i), {})[key] = tensor
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        return step

    def forget(self) -> None:
        """Delete the state of a run that is finished, so that the next one starts anew."""
        self.path.unlink(missing_ok=True)


def train(recipe: Recipe, out: Path, work: Path, device: str = "cpu", steps: int | None = None,
          pool: int | None = None) -> list[float]:  # fmt: skip
    """Train one model and write it, and its early checkpoints, below `out`.

    Parameters
    ----------
    recipe : Recipe
        What to make.
    out : pathlib.Path
        Models are written to ``out/NAME``.
    work : pathlib.Path
        Where the state of an unfinished run is kept.
    device : str
        A torch device.
    steps, pool : int, optional
        Fewer steps or practice questions than the recipe's, for a trial.

    Returns
    -------
    list of float
        The loss at every step of this call.
    """
    steps = recipe.steps if steps is None else steps
    model = build_model(recipe).to(device)
    losses: list[float] = []
    if steps:
        optimizers = build_optimizers(model)
        rates = [optimizer.defaults["lr"] for optimizer in optimizers]
        practice = build_practice(recipe, build_tokenizer(), **({"n": pool} if pool else {}))
        resume = Resume(work, recipe, steps, practice)
        done = resume.load(model, optimizers)
        stream = batches(practice, recipe.seed)
        for _ in range(done):
            next(stream)
        for step in track(range(done, steps), f"{recipe.name}: training"):
            for optimizer, rate in zip(optimizers, rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * schedule(step, steps)
            tokens, labels = (torch.from_numpy(array).to(device) for array in next(stream))
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
                resume.save(model, optimizers, step + 1)
    export(model, recipe, out / recipe.name, steps)
    if steps:
        resume.forget()
    return losses
