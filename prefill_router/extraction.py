"""Prefill states of any Hugging Face encoder: one forward pass a prompt, pooled at every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prefill_router import __version__
from prefill_router.activations import Activations, check_storage, write_activations
from prefill_router.errors import InputError, did_you_mean
from prefill_router.models import ModelSource, load_encoder, pad_id, weights_hash
from prefill_router.progress import track
from prefill_router.prompts import Truncation, batches, check_questions, token_limit, tokenize
from prefill_router.storage import Store, fingerprint

Layers = Literal["all", "upper"] | Sequence[int]


def pool_last(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the last prompt token's state: (B, T, D) padded right, lengths (B,) -> (B, D)."""
    return states[torch.arange(len(states), device=states.device), lengths - 1].float()


def pool_mean(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean over prompt tokens: (B, T, D) padded right, lengths (B,) -> (B, D)."""
    is_prompt = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    # where, not a product: a padded position may hold NaN, and NaN times zero is NaN
    prompt = torch.where(is_prompt[:, :, None], states.float(), 0.0)
    return prompt.sum(dim=1) / lengths[:, None]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"last": pool_last, "mean": pool_mean}


@dataclass(frozen=True)
class Encoding:
    """What a model's prefill leaves behind for N prompts.

    Attributes
    ----------
    states : ndarray of shape (n_layers, n_poolings, N, D)
        Pooled hidden states, in the order of `layers` and `poolings`.
    layers : list of int
        Hidden states as transformers counts them: 0 is the embedding output, L the last block's
        (after the final norm, where the model has one).
    poolings : list of str
        Keys of `POOLINGS`.
    n_tokens : int64 ndarray of shape (N,)
        Prompt tokens read, special tokens and chat template included.
    n_truncated : int
        Prompts that were cut to fit.
    """

    states: np.ndarray
    layers: list[int]
    poolings: list[str]
    n_tokens: np.ndarray
    n_truncated: int


def encode(
    model,
    tokenizer,
    questions: Sequence[str],
    *,
    layers: Layers = "all",
    poolings: Sequence[str] = ("last", "mean"),
    max_tokens: int | None = None,
    truncation: Truncation = "error",
    token_budget: int = 8192,
    template_kwargs: dict[str, Any] | None = None,
) -> Encoding:
    """Run each prompt through the model once, without generating, and pool its hidden states.

    Parameters
    ----------
    model, tokenizer
        From `prefill_router.models.load_encoder`; causal or bidirectional.
    questions : sequence of str, length N
        Each becomes one prompt, as in `prefill_router.prompts.format_prompts`.
    layers : "all", "upper" or sequence of int, default "all"
        Which of the hidden states 0..L to keep; ``"upper"`` is the upper half, L // 2 + 1 to L.
    poolings : sequence of str, default ("last", "mean")
        Keys of `POOLINGS`.
    max_tokens : int, optional
        The most tokens of a prompt; by default, and at most, what model and tokenizer allow.
    truncation : {"error", "left", "right"}, default "error"
        What to do with longer prompts.
    token_budget : int, default 8192
        The most tokens of a batch, padding included; bounds memory, changes no result beyond
        rounding.
    template_kwargs : dict, optional
        Passed to the chat template.

    Returns
    -------
    Encoding
        With float32 states.

    Raises
    ------
    InputError
        If a parameter or question cannot be used, or a state is not finite.

    Notes
    -----
    Prompts are padded on the right, so that the positions a model counts for itself are those of
    the prompt alone; the attention mask hides the padding.
    """
    poolings = _check_poolings(poolings)
    limit = token_limit(model, tokenizer)
    max_tokens = limit if max_tokens is None else max_tokens
    if max_tokens > limit:
        raise InputError(f"max_tokens is {max_tokens}; this model reads at most {limit} tokens.")
    ids, n_truncated = tokenize(tokenizer, questions, max_tokens, truncation, template_kwargs)
    lengths = np.array([len(tokens) for tokens in ids])
    chosen: list[int] = []
    states = np.empty(0, np.float32)
    model.eval()
    for rows in track(list(batches(lengths, token_budget)), "Reading prompts"):
        hidden = _hidden_states(model, [ids[row] for row in rows], pad_id(tokenizer))
        if not chosen:
            chosen = _check_layers(layers, len(hidden) - 1)
            shape = (len(chosen), len(poolings), len(ids), hidden[-1].shape[-1])
            states = np.empty(shape, np.float32)
        row_lengths = torch.as_tensor(lengths[rows], device=hidden[0].device)
        for i, layer in enumerate(chosen):
            for j, pooling in enumerate(poolings):
                pooled = POOLINGS[pooling](hidden[layer], row_lengths).cpu().numpy()
                if not np.isfinite(pooled).all():
                    row = rows[int(np.argmin(np.isfinite(pooled).all(axis=1)))]
                    raise InputError(
                        f"Question {row} ({questions[row][:60]!r}) has a state at layer {layer} "
                        f"({pooling}) that is not finite. Try dtype float32 or bfloat16; if it "
                        "stays, the model's weights are damaged."
                    )
                states[i, j, rows] = pooled
    return Encoding(states, chosen, poolings, lengths.astype(np.int64), n_truncated)


def reference_states(
    model,
    tokenizer,
    questions: Sequence[str],
    like: Activations,
    *,
    max_tokens: int | None = None,
    truncation: Truncation = "error",
) -> np.ndarray:
    """Read prompts the plain way, one at a time and unpadded: what `encode` must be equal to.

    Parameters
    ----------
    model, tokenizer, questions, max_tokens, truncation
        As for `encode`.
    like : Activations
        Whose layers and poolings are wanted.

    Returns
    -------
    float32 ndarray of shape (n_layers, n_poolings, n, D)
    """
    max_tokens = max_tokens or token_limit(model, tokenizer)
    ids, _ = tokenize(tokenizer, questions, max_tokens, truncation)
    pools = {"last": lambda h: h[-1], "mean": lambda h: h.mean(axis=0)}
    result = []
    for tokens in ids:
        hidden = _hidden_states(model, [tokens], pad_id(tokenizer))
        states = [hidden[layer][0].float().cpu().numpy() for layer in like.layers]
        result.append([[pools[name](h) for name in like.poolings] for h in states])
    return np.moveaxis(np.array(result), 0, 2)


@torch.inference_mode()
def _hidden_states(model, ids: list[list[int]], padding: int) -> Sequence[Tensor]:
    """Return the L + 1 hidden states, each (B, T, D), of prompts padded on the right."""
    width = max(map(len, ids))
    tokens = torch.tensor([row + [padding] * (width - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    output = model(
        input_ids=tokens.to(model.device),
        attention_mask=mask.to(model.device),
        output_hidden_states=True,
    )
    if output.get("hidden_states") is None:
        raise InputError(f"{type(model).__name__} gives no hidden states; take another encoder.")
    return output.hidden_states


def _check_poolings(poolings: Sequence[str]) -> list[str]:
    poolings = [poolings] if isinstance(poolings, str) else list(dict.fromkeys(poolings))
    for pooling in poolings:
        if pooling not in POOLINGS:
            raise InputError(f"pooling {pooling!r} is unknown." + did_you_mean(pooling, POOLINGS))
    if not poolings:
        raise InputError(f"poolings is empty; known: {', '.join(POOLINGS)}.")
    return poolings


def _check_layers(layers: Layers, last: int) -> list[int]:
    """Return the sorted layers meant, out of 0..`last`."""
    if isinstance(layers, str):
        named = {"all": range(last + 1), "upper": range(last // 2 + 1, last + 1)}
        if layers not in named:
            raise InputError(f"layers {layers!r} is unknown." + did_you_mean(layers, named))
        return list(named[layers])
    chosen = sorted({int(layer) for layer in layers})
    if not chosen or chosen[0] < 0 or chosen[-1] > last:
        raise InputError(
            f"layers {chosen} must be one or more of 0..{last}: 0 is the embedding output, "
            f"{last} the last of this model's {last} blocks."
        )
    return chosen


def extract(
    model,
    tokenizer,
    questions: Sequence[str],
    out_dir: str | Path,
    *,
    storage_dtype: Literal["float32", "float16"] = "float32",
    **settings: Any,
) -> Activations:
    """Write the pooled prefill states of `questions` into a directory.

    Parameters
    ----------
    model, tokenizer, questions
        As for `encode`.
    out_dir : path-like
        Made if need be.
    storage_dtype : {"float32", "float16"}, default "float32"
        Type on disk; they are read back as float32.
    **settings
        The keyword parameters of `encode`.

    Returns
    -------
    Activations

    Raises
    ------
    InputError
        As for `encode`, or if a state does not fit into float16.
    """
    check_storage(storage_dtype)  # before the long part
    encoding = encode(model, tokenizer, questions, **settings)
    write_activations(
        out_dir,
        encoding.states,
        encoding.layers,
        encoding.poolings,
        encoding.n_tokens,
        encoding.n_truncated,
        storage_dtype,
    )
    return Activations.open(out_dir)


def extract_to_store(
    store: Store,
    source: ModelSource,
    questions: Sequence[str],
    *,
    layers: Layers = "all",
    poolings: Sequence[str] = ("last", "mean"),
    max_tokens: int | None = None,
    truncation: Truncation = "error",
    token_budget: int = 8192,
    template_kwargs: dict[str, Any] | None = None,
    storage_dtype: Literal["float32", "float16"] = "float32",
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> Activations:
    """Return the activations of `questions` from a store, extracting them if they are not there.

    Parameters
    ----------
    store : Store
        Artifacts in it are addressed by everything that decides the states: the model's files, the
        questions, the settings, and the versions of this package and transformers. Device and
        batch size are not among them: they change rounding only.
    source : ModelSource
        The encoder, from `prefill_router.models.resolve`.
    questions, layers, poolings, max_tokens, truncation, token_budget, template_kwargs
        As for `encode`.
    storage_dtype
        As for `extract`.
    device, dtype, trust_remote_code
        As for `prefill_router.models.load_encoder`.

    Returns
    -------
    Activations

    Raises
    ------
    InputError
        As for `encode` and `load_encoder`, or if the artifact was altered on disk.
    """
    settings = {
        "layers": layers if isinstance(layers, str) else sorted({int(layer) for layer in layers}),
        "poolings": list(_check_poolings(poolings)),
        "max_tokens": max_tokens,
        "truncation": truncation,
        "template_kwargs": template_kwargs,
        "storage_dtype": storage_dtype,
    }
    key = {
        "weights": weights_hash(source),
        "questions": fingerprint(check_questions(questions)),
        "dtype": dtype,
        "prefill_router": __version__,
        "transformers": version("transformers"),
        **settings,
    }

    def build(directory: Path) -> None:
        model, tokenizer = load_encoder(source, device, dtype, trust_remote_code)
        extract(model, tokenizer, questions, directory, token_budget=token_budget, **settings)

    return Activations.open(store.get("activations", key, build))
