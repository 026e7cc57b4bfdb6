"""Prefill states of any Hugging Face encoder: one pass per prompt, pooled at every layer."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.activations import (
    Activations,
    EncoderInfo,
    content_key,
    usable_layers,
)
from prefill_router.extraction.batches import group_batches, plan_batches
from prefill_router.extraction.concurrency import directory_lock, write_behind
from prefill_router.extraction.model_layout import ModelLayout
from prefill_router.extraction.models import Device, quiet
from prefill_router.extraction.pooling import check_poolings
from prefill_router.extraction.prefill import EncoderSpec, Place, Reader, Survey
from prefill_router.extraction.prompts import Truncation
from prefill_router.extraction.ray_engine import RayReader, ray_reader
from prefill_router.extraction.shards import (
    FULL_TOKENS,
    N_TOKENS,
    QUERIES,
    Folder,
    check_storage,
    distinct,
    tensor_name,
)
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.extraction.templates import check_questions
from prefill_router.progress import meter
from prefill_router.storage import Store, fingerprint, library_versions

SHARD_BYTES = 64 * 2**20  # what is lost at most when a run is stopped, and held in memory
ENGINES = ("local", "ray")
Opened = contextlib.AbstractContextManager[Reader | RayReader]


def extract(
    encoder: str | os.PathLike | ModelSource | tuple[Any, Any],
    queries: Sequence[str],
    *,
    layers: Literal["all", "upper"] | Sequence[int] = "all",
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
        Type on disk; states are returned as float32.
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
        If a parameter, query or model cannot be used, or files in `cache_dir` are damaged or cannot
        be written.
    """
    request = Request(check_questions(queries), layers, check_poolings(poolings))
    itemsize = check_storage(storage_dtype)().itemsize
    if token_budget is not None and token_budget < 1:
        raise InputError(f"token_budget is {token_budget}; it must be at least 1.")
    _check_engine(engine, address, workers)
    reading = {"max_tokens": max_tokens, "truncation": truncation, "template": template,
               "template_kwargs": template_kwargs}  # fmt: skip
    if isinstance(encoder, tuple):
        if cache_dir is not None or engine != "local":
            raise InputError(
                "A loaded model is read in memory by this process; name the encoder instead to use "
                "cache_dir or another engine."
            )
        reader = contextlib.nullcontext(Reader(*encoder, **reading, token_budget=token_budget))
        return _in_memory(reader, request, None)
    source = encoder if isinstance(encoder, ModelSource) else resolve(str(encoder))
    info = EncoderInfo(source.name, source.revision, weights_hash(source), dtype, **reading)
    spec = EncoderSpec(source, info, device, trust_remote_code, token_budget)
    reader = ray_reader(spec, address, workers) if engine == "ray" else _local_reader(spec)
    if cache_dir is None:
        return _in_memory(reader, request, spec)
    key = {**spec.key, "storage_dtype": storage_dtype}
    folder = Folder(Store(cache_dir).path("activations", key))
    digests, numbers = distinct(request.queries)

    def fill(opened: Reader | RayReader) -> None:
        survey = opened.survey(request.queries)
        request.places(survey.layout.last)  # refuses layers that there are not
        folder.describe(_manifest(spec, key, survey))

        def keep(places: list[Place], rows: np.ndarray, values: Tensor) -> None:
            found = b"".join(digests[number] for number in numbers[rows])
            arrays = {QUERIES: np.frombuffer(found, np.uint8).reshape(len(rows), -1)}
            arrays |= {N_TOKENS: survey.n_tokens[rows], FULL_TOKENS: survey.full_tokens[rows]}
            names = [tensor_name(*place) for place in places]
            folder.add(arrays | dict(zip(names, values.cpu().numpy(), strict=True)))

        first = np.unique(numbers, return_index=True)[1]
        groups = [(places, first[rows]) for places, rows in _missing(folder, digests, request)]
        _read(opened, survey, request.queries, groups, itemsize, keep)

    try:
        if _missing(folder, digests, request):
            folder.path.mkdir(parents=True, exist_ok=True)
            with directory_lock(folder.path):
                if _missing(folder, digests, request):  # nor has another process just read them
                    with reader as opened:
                        fill(opened)
    except OSError as error:
        raise InputError(
            f"{folder.path} cannot be written ({error.strerror or error}). What is there is kept: "
            "make room, or give another cache_dir, and run again."
        ) from error
    layers = check_layers(request.layers, folder.manifest["last_layer"])
    found = Activations.open(folder.path, request.queries, layers, request.poolings)
    return replace(found, encoder=info)  # found under this name, whatever it was read under


@dataclass(frozen=True)
class Request:
    """Which states are wanted: of which queries, at which layers, pooled how."""

    queries: list[str]
    layers: Literal["all", "upper"] | Sequence[int]
    poolings: list[str]

    def places(self, last: int) -> list[Place]:
        """Return layers and poolings of a model that has hidden states 0..`last`."""
        return list(itertools.product(check_layers(self.layers, last), self.poolings))


def _check_engine(engine: str, address: str | None, workers: int | None) -> None:
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown." + did_you_mean(engine, ENGINES))
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1.")
    if engine == "local" and (address or workers):
        raise InputError("address and workers are for the engine ray; set engine to ray.")


@contextlib.contextmanager
def _local_reader(spec: EncoderSpec) -> Iterator[Reader]:
    yield spec.load()


def _in_memory(reader: Opened, request: Request, spec: EncoderSpec | None) -> Activations:
    queries, poolings = request.queries, request.poolings
    with reader as opened:
        survey = opened.survey(queries)
        places, width = request.places(survey.layout.last), survey.layout.width
        states = {place: np.empty((len(queries), width), np.float32) for place in places}

        def keep(places: list[Place], rows: np.ndarray, values: Tensor) -> None:
            for place, part in zip(places, values.cpu().numpy(), strict=True):
                states[place][rows] = part

        _read(opened, survey, queries, [(places, np.arange(len(queries)))], 4, keep)

    def not_finite(*place: Any) -> np.ndarray:
        return np.flatnonzero(~np.isfinite(states[place]).all(axis=1))

    layers = sorted({layer for layer, _ in places})
    return Activations(
        usable_layers(layers, poolings, not_finite),
        poolings,
        width,
        content_key(spec.key, queries, layers, poolings) if spec else fingerprint(*states.values()),
        spec.info if spec else None,
        len(queries),
        (survey.n_tokens, survey.full_tokens),
        lambda *place: states[place],
    )


def _missing(
    folder: Folder, digests: list[bytes], request: Request
) -> list[tuple[list[Place], np.ndarray]]:
    """Return which rows lack which places, those that lack the same together; all, if unknown."""
    if folder.manifest is None:
        return [([], np.arange(len(digests)))]
    held, groups = folder.find(digests), []
    places = request.places(folder.manifest["last_layer"])
    lacking = ~np.array([held.has(tensor_name(*place)) for place in places])
    for pattern in np.unique(lacking, axis=1).T[::-1]:  # those that lack most first
        if pattern.any():
            rows = np.flatnonzero((lacking == pattern[:, None]).all(axis=0))
            groups.append(([places[i] for i in np.flatnonzero(pattern)], rows))
    return groups


def _manifest(spec: EncoderSpec, key: dict[str, Any], survey: Survey) -> dict[str, Any]:
    layout: ModelLayout = survey.layout
    return {
        "key": key,
        "encoder": asdict(spec.info),
        "files": spec.source.hashes(),
        "last_layer": layout.last,
        "width": layout.width,
        "attention_mask": not layout.is_causal,
        "whole_passes": layout.places is None,
        "device": survey.device,
        "libraries": library_versions(),
    }


def _read(
    reader: Reader | RayReader,
    survey: Survey,
    texts: list[str],
    groups: list[tuple[list[Place], np.ndarray]],
    itemsize: int,
    keep: Callable[[list[Place], np.ndarray, Tensor], None],
) -> None:
    """Read some places of some rows, and hand over the states of each shard, in another thread."""
    lengths = survey.n_tokens
    for places, rows in groups:
        n_rows = max(1, SHARD_BYTES // (len(places) * survey.layout.width * itemsize))
        batches = plan_batches(lengths[rows], survey.token_budget, n_rows, survey.switch)
        shards = group_batches([rows[batch] for batch in batches], n_rows)
        with (
            quiet(),
            write_behind(keep) as put,
            meter("Reading prompts", len(rows), int(lengths[rows].sum())) as bar,
        ):

            def advance(rows: np.ndarray, bar=bar) -> None:
                bar(len(rows), int(lengths[rows].sum()))

            for shard, states in reader.read(texts, shards, places, advance):
                put(places, shard, states)


def check_layers(layers: Literal["all", "upper"] | Sequence[int], last: int) -> list[int]:
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
