"""Prefill states of any Hugging Face encoder: one forward pass a prompt, pooled at every layer."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.activations import Activations, EncoderInfo, StoredStates
from prefill_router.extraction.anatomy import Anatomy, all_states, dissect
from prefill_router.extraction.devices import Device
from prefill_router.extraction.models import input_device, load_encoder, pad_id, quiet
from prefill_router.extraction.plan import make_plan, rope_switch
from prefill_router.extraction.pooling import needs_user
from prefill_router.extraction.prefill import Prefill
from prefill_router.extraction.prompts import Prompts, Truncation, check_max_tokens, token_limit
from prefill_router.extraction.settings import Layers, Settings
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.extraction.templates import check_questions
from prefill_router.extraction.threads import ahead, behind
from prefill_router.progress import meter
from prefill_router.storage import Store, fingerprint

GPU_TOKENS = 16384  # of a batch; beyond, nothing gets faster
CPU_TOKENS = (1024, 8192)  # likewise, of a large and of a tiny model
CPU_BYTES = 64 * 2**20  # what a block writes of a batch, between these


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
        Keys of `prefill_router.extraction.pooling.POOLINGS`.
    n_tokens, full_tokens : int64 ndarray of shape (N,)
        Prompt tokens read, and before any was cut; special tokens and chat template included.
    """

    states: np.ndarray
    layers: list[int]
    poolings: list[str]
    n_tokens: np.ndarray
    full_tokens: np.ndarray

    @property
    def n_truncated(self) -> int:
        """Prompts that were cut to fit."""
        return int((self.full_tokens > self.n_tokens).sum())


@dataclass(frozen=True)
class Reading:
    """All that is settled before the first batch: what is read, of whom, and what is kept.

    Attributes
    ----------
    prompts : Prompts
        How questions become prompts.
    anatomy : Anatomy
        Of the model.
    layers, poolings : list
        What is kept.
    n_tokens, full_tokens : int64 ndarray of shape (N,)
        As in `Encoding`.
    token_budget : int
        The most tokens of a batch.
    switch : float
        As for `prefill_router.extraction.plan.make_plan`.
    """

    prompts: Prompts
    anatomy: Anatomy
    layers: list[int]
    poolings: list[str]
    n_tokens: np.ndarray
    full_tokens: np.ndarray
    token_budget: int
    switch: float


def prepare(model, tokenizer, questions: Sequence[str], **settings: Any) -> Reading:
    """Settle all that an extraction needs to know; parameters and errors as for `encode`."""
    wanted = Settings(**settings)
    limit = token_limit(model, tokenizer)
    max_tokens = limit if wanted.max_tokens is None else wanted.max_tokens
    check_max_tokens(max_tokens, limit)
    how = wanted.truncation, wanted.template_kwargs, wanted.template
    prompts = Prompts(tokenizer, max_tokens, *how)
    full_tokens = prompts.count(questions)
    sample = prompts.ids([questions[int(full_tokens.argmax())]])[0]
    with quiet():
        anatomy = dissect(model.eval(), sample, pad_id(tokenizer))
    return Reading(
        prompts=prompts,
        anatomy=anatomy,
        layers=check_layers(wanted.layers, anatomy.last),
        poolings=wanted.poolings,
        n_tokens=np.minimum(full_tokens, max_tokens),
        full_tokens=full_tokens,
        token_budget=wanted.token_budget or default_budget(input_device(model), anatomy),
        switch=rope_switch(model.config.get_text_config()),
    )


def default_budget(device: torch.device, anatomy: Anatomy) -> int:
    """Return how many tokens a batch may have: enough to keep the device busy, and no more.

    More would only pad more. On a GPU that is bounded by half of the memory free now; what does not
    fit after all is halved (`Prefill.read`). A CPU is busy with a thousand tokens, and with more
    only where a token is so little work that calling the model counts.
    """
    if device.type == "cuda":
        memory, least, most = torch.cuda.mem_get_info(device)[0] // 2, 1, GPU_TOKENS
    else:
        memory, (least, most) = CPU_BYTES, CPU_TOKENS
    fits = max(1, memory // anatomy.bytes_per_token)
    return min(max(1 << (fits.bit_length() - 1), least), most)


def read_batches(
    prefill: Prefill, prompts: Prompts, questions: Sequence[str], batches: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Read batches in turn, the next ones tokenised meanwhile.

    Parameters
    ----------
    prefill : Prefill
    prompts : Prompts
    questions : sequence of str, length N
    batches : iterable of int64 ndarray
        The rows of each batch.

    Yields
    ------
    rows : int64 ndarray of shape (B,)
    pooled : float32 Tensor of shape (n_layers, n_poolings, B, D)
        On the device, which may still be at work on it.
    """
    find_user = needs_user(prefill.poolings)

    def tokenize(rows: np.ndarray):
        return rows, prompts.batch([questions[row] for row in rows], find_user)

    for rows, batch in ahead(tokenize, batches):
        yield rows, prefill.read(batch)


def encode(model, tokenizer, questions: Sequence[str], **settings: Any) -> Encoding:
    """Run each prompt through the model once, without generating, and pool its hidden states.

    Parameters
    ----------
    model, tokenizer
        From `prefill_router.extraction.models.load_encoder`; causal or bidirectional.
    questions : sequence of str, length N
        Each becomes one prompt, as in `prefill_router.extraction.templates.format_prompts`.
    **settings
        What is read and how, such as ``layers=[8, 12], poolings=["mean"]``: the parameters of
        `prefill_router.extraction.settings.Settings`.

    Returns
    -------
    Encoding
        With float32 states, all of them in memory; `extract` writes them to disk as they come.

    Raises
    ------
    InputError
        If a parameter, question or model cannot be used, or a state is not finite.

    Notes
    -----
    Prompts are padded on the right, so that the positions a model counts for itself are those of
    the prompt alone. No token of a causal model sees what follows it, so that padding needs no
    attention mask there, and attention takes its faster path; other models are given the mask.
    """
    reading = prepare(model, tokenizer, questions, **settings)
    n_tokens = reading.n_tokens
    plan = make_plan(n_tokens, reading.token_budget, len(questions), reading.switch)
    shape = len(reading.layers), len(reading.poolings), len(questions), reading.anatomy.width
    states = np.empty(shape, np.float32)

    def place(rows: np.ndarray, pooled: Tensor) -> None:
        states[:, :, rows] = pooled.cpu().numpy()

    prefill = Prefill(model, reading.anatomy, reading.layers, reading.poolings)
    with (
        quiet(),
        behind(place) as put,
        meter("Reading prompts", len(questions), int(n_tokens.sum())) as advance,
    ):
        for rows, pooled in read_batches(prefill, reading.prompts, questions, plan.batches(0)):
            put(rows, pooled)
            advance(len(rows), int(n_tokens[rows].sum()))
    _check_finite(states, reading, questions)
    return Encoding(states, reading.layers, reading.poolings, n_tokens, reading.full_tokens)


def _check_finite(states: np.ndarray, reading: Reading, questions: Sequence[str]) -> None:
    for i, layer in enumerate(reading.layers):
        for j, pooling in enumerate(reading.poolings):
            finite = np.isfinite(states[i, j]).all(axis=1)
            if not finite.all():
                row = int(np.argmin(finite))
                raise InputError(
                    f"Question {row} ({questions[row][:60]!r}) has a state at layer {layer} "
                    f"({pooling}) that is not finite. Try dtype float32 or bfloat16; if it "
                    "stays, the model's weights are damaged."
                )


def extract(
    encoder: str | os.PathLike | ModelSource | tuple[Any, Any],
    queries: Sequence[str],
    *,
    layers: Layers = "all",
    poolings: Sequence[str] = ("last", "mean"),
    max_tokens: int | None = None,
    truncation: Truncation = "error",
    device: Device = "cpu",
    dtype: str = "float32",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    storage_dtype: Literal["float32", "float16"] = "float32",
    token_budget: int | None = None,
    template: str | None = None,
    template_kwargs: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Activations:
    """Read each query once with an encoder, without generating, and keep its pooled states.

    Parameters
    ----------
    encoder : str, path or ModelSource; or a model and its tokenizer
        ``zoo/NAME``, a directory, ``owner/name`` on the Hugging Face hub, or what `load_encoder`
        returns, which is read in memory by this process.
    queries : sequence of str, length N
        Each becomes one user turn in the encoder's chat template.
    layers : "all", "upper" or sequence of int, default "all"
        Which of the hidden states 0..L to keep; ``"upper"`` is the upper half, L // 2 + 1 to L.
        Blocks above the highest are not run.
    poolings : sequence of str, default ("last", "mean")
        Keys of `prefill_router.extraction.pooling.POOLINGS`.
    max_tokens : int, optional
        The most tokens of a prompt; by default, and at most, what model and tokenizer allow.
    truncation : {"error", "left", "right"}, default "error"
        What to do with longer prompts: refuse, or drop tokens on that side.
    device, dtype, trust_remote_code
        As for `prefill_router.extraction.models.load_encoder`.
    engine : {"local", "ray"}, default "local"
        This process, or workers on a Ray cluster, each with an encoder of its own.
    address : str, optional
        Of a running Ray cluster; by default ``RAY_ADDRESS``, else one is started on this machine.
    workers : int, optional
        For Ray; by default as many as there is room for.
    cache_dir : path-like, optional
        Where states are written shard by shard, and found again: a run that was stopped goes on,
        and of a data set that has grown only the new queries are read. By default states are kept
        in memory.
    storage_dtype : {"float32", "float16"}, default "float32"
        Type on disk.
    token_budget : int, optional
        The most tokens of a batch, padding included; bounds memory, changes no result beyond
        rounding.
    template, template_kwargs : optional
        A chat template (Jinja) to use instead of the tokenizer's, and what to pass to it.

    Returns
    -------
    Activations

    Raises
    ------
    InputError
        If a parameter, query or model cannot be used, or files in `cache_dir` are damaged.
    """
    from prefill_router.extraction.keys import make_key
    from prefill_router.extraction.streaming import extract_to_store

    settings = {
        "layers": layers,
        "poolings": poolings,
        "max_tokens": max_tokens,
        "truncation": truncation,
        "token_budget": token_budget,
        "template": template,
        "template_kwargs": template_kwargs,
    }
    if isinstance(encoder, tuple):
        info, key = None, None
        loaded = encoder
    else:
        source = encoder if isinstance(encoder, ModelSource) else resolve(str(encoder))
        reading = max_tokens, truncation, template, template_kwargs
        info = EncoderInfo(source.name, source.revision, weights_hash(source), dtype, *reading)
    if cache_dir is not None or engine != "local":
        with contextlib.ExitStack() as stack:
            root = cache_dir or stack.enter_context(tempfile.TemporaryDirectory())
            stored = extract_to_store(
                Store(root),
                source,
                queries,
                device=device,
                dtype=dtype,
                storage_dtype=storage_dtype,
                trust_remote_code=trust_remote_code,
                engine=engine,
                address=address,
                workers=workers,
                **settings,
            )
            read = stored.states
            if cache_dir is None:
                places = itertools.product(stored.layers, stored.poolings)
                arrays = {place: stored.states(*place) for place in places}
                read = lambda *place: arrays[place]  # noqa: E731
            found = stored.layers, stored.poolings, stored.width, stored.path.name
            return Activations(
                *found, info, len(queries), (stored.n_tokens, stored.full_tokens), read
            )
    if info is not None:
        given = {"dtype": dtype, "trust_remote_code": trust_remote_code, **settings}
        key = fingerprint(make_key(source, queries, **given))
        loaded = load_encoder(source, device, dtype, trust_remote_code)
    encoding = encode(*loaded, check_questions(queries), **settings)
    arrays = {
        (layer, pooling): encoding.states[i, j]
        for i, layer in enumerate(encoding.layers)
        for j, pooling in enumerate(encoding.poolings)
    }
    return Activations(
        encoding.layers,
        encoding.poolings,
        encoding.states.shape[-1],
        key or fingerprint(encoding.states),
        info,
        len(queries),
        (encoding.n_tokens, encoding.full_tokens),
        lambda *place: arrays[place],
    )


def reference_states(
    model,
    tokenizer,
    questions: Sequence[str],
    like: StoredStates | Encoding,
    *,
    max_tokens: int | None = None,
    truncation: Truncation = "error",
) -> np.ndarray:
    """Read prompts the plain way, one at a time and unpadded: what `encode` must be equal to.

    Parameters
    ----------
    model, tokenizer, questions, max_tokens, truncation
        As for `encode`.
    like : Activations or Encoding
        Whose layers and poolings are wanted, the latter out of ``last`` and ``mean``.

    Returns
    -------
    float32 ndarray of shape (n_layers, n_poolings, n, D)
    """
    prompts = Prompts(tokenizer, max_tokens or token_limit(model, tokenizer), truncation)
    pools = {"last": lambda h: h[-1], "mean": lambda h: h.mean(axis=0)}
    result = []
    for tokens in prompts.ids(check_questions(questions)):
        hidden = all_states(model, torch.tensor([tokens]))
        states = [hidden[layer][0].float().cpu().numpy() for layer in like.layers]
        result.append([[pools[name](h) for name in like.poolings] for h in states])
    return np.moveaxis(np.array(result), 0, 2)


def check_layers(layers: Layers, last: int) -> list[int]:
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
