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
)
from prefill_router.extraction.batches import group_batches
from prefill_router.extraction.concurrency import directory_lock, write_behind
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
    query_digest,
    tensor_name,
)
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.extraction.templates import check_questions
from prefill_router.progress import meter
from prefill_router.storage import Store, library_versions

SHARD_BYTES = 64 * 2**20  # what is lost at most when a run is stopped, and held in memory
ENGINES = ("local", "ray")


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
    layers : "all", "upper" or sequence of int
        Hidden states to keep, of 0..L; ``"upper"`` is L // 2 + 1 to L. Higher blocks are not run.
    poolings : sequence of str
        Keys of `prefill_router.extraction.pooling.POOLINGS`.
    max_tokens, truncation
        The most tokens of a prompt (by default what the encoder allows), and what to do with longer
        ones: refuse (``"error"``), or drop tokens on the ``"left"`` or ``"right"``.
    device, dtype, trust_remote_code
        As for `prefill_router.extraction.models.load_encoder`.
    engine, address, workers
        ``"local"`` for this process, or ``"ray"`` for workers of a Ray cluster: at `address`, by
        default ``RAY_ADDRESS`` or one started here; by default as many as there is room for.
    cache_dir, storage_dtype
        Where, and in which type, states are written shard by shard, and found again: a stopped run
        goes on, and only new queries are read. By default they are kept in memory.
    token_budget : int, optional
        The most tokens of a batch, padding included; changes no result beyond rounding.
    template, template_kwargs : optional
        A chat template (Jinja) to use instead of the tokenizer's, and what to pass to it.

    Returns
    -------
    Activations

    Raises
    ------
    InputError
        If a parameter, query or model cannot be used, or files are damaged or cannot be written.
    """
    wanted = Request(check_questions(queries), layers, check_poolings(poolings))
    check_storage(storage_dtype)
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
        return _in_memory(Reader(*encoder, **reading, token_budget=token_budget), wanted, None)
    source = encoder if isinstance(encoder, ModelSource) else resolve(str(encoder))
    info = EncoderInfo(source.name, source.revision, weights_hash(source), dtype, **reading)
    spec = EncoderSpec(source, info, device, trust_remote_code, token_budget)
    reader = ray_reader(spec, address, workers) if engine == "ray" else _local_reader(spec)
    if cache_dir is not None:
        return _on_disk(reader, wanted, spec, cache_dir, storage_dtype)
    with reader as opened:
        return _in_memory(opened, wanted, spec)


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


def _in_memory(
    reader: Reader | RayReader, wanted: Request, spec: EncoderSpec | None
) -> Activations:
    queries = wanted.queries
    survey = reader.survey(queries)
    places, width = wanted.places(survey.layout.last), survey.layout.width
    states = {place: np.empty((len(queries), width), np.float32) for place in places}

    def keep(places: list[Place], rows: np.ndarray, values: Tensor) -> None:
        for place, part in zip(places, values.cpu().numpy(), strict=True):
            states[place][rows] = part

    _read(reader, survey, queries, [(places, np.arange(len(queries)))], 4, keep)

    found = Activations.from_arrays(states, survey.n_tokens, survey.full_tokens)
    found = replace(found, poolings=wanted.poolings)
    if spec is None:
        return found
    layers = check_layers(wanted.layers, survey.layout.last)
    key = content_key(spec.key, queries, layers, wanted.poolings)
    return replace(found, key=key, encoder=spec.info)


def _on_disk(
    reader: contextlib.AbstractContextManager[Reader | RayReader],
    wanted: Request,
    spec: EncoderSpec,
    cache_dir: str | os.PathLike,
    storage_dtype: str,
) -> Activations:
    key = {**spec.key, "storage_dtype": storage_dtype}
    folder = Folder(Store(cache_dir).path("activations", key))
    try:
        if _missing(folder, wanted):
            folder.path.mkdir(parents=True, exist_ok=True)
            with directory_lock(folder.path):
                if _missing(folder, wanted):  # nor has another process just read them
                    with reader as opened:
                        _fill(folder, opened, wanted, spec, key)
    except OSError as error:
        raise InputError(
            f"{folder.path} cannot be written ({error.strerror or error}). What is there is kept: "
            "make room, or give another cache_dir, and run again."
        ) from error
    layers = check_layers(wanted.layers, folder.manifest["last_layer"])
    found = Activations.open(folder.path, wanted.queries, layers, wanted.poolings)
    return replace(found, encoder=spec.info)  # found under this name, whatever it was read under


def _missing(folder: Folder, wanted: Request) -> list[tuple[list[Place], np.ndarray]]:
    """Return which rows lack which places, those that lack the same together; all, if unknown.

    Of queries that are alike, the first.
    """
    digests, first, _ = distinct(wanted.queries)
    if folder.manifest is None:
        return [([], first)]
    held, groups = folder.find(digests), []
    places = wanted.places(folder.manifest["last_layer"])
    lacking = ~np.array([held.has(tensor_name(*place)) for place in places])
    for pattern in np.unique(lacking, axis=1).T[::-1]:  # those that lack most first
        if pattern.any():
            rows = first[(lacking == pattern[:, None]).all(axis=0)]
            groups.append(([places[i] for i in np.flatnonzero(pattern)], rows))
    return groups


def _fill(
    folder: Folder,
    reader: Reader | RayReader,
    wanted: Request,
    spec: EncoderSpec,
    key: dict[str, Any],
) -> None:
    """Read what a folder lacks, and write it shard by shard."""
    survey = reader.survey(wanted.queries)
    layout = survey.layout
    wanted.places(layout.last)  # refuses layers that there are not, before anything is written
    folder.describe(
        {
            "key": key,
            "encoder": asdict(spec.info),
            "files": spec.source.hashes(),
            "last_layer": layout.last,
            "width": layout.width,
            "attention_mask": not layout.is_causal,
            "whole_passes": layout.places is None,
            "device": layout.device,
            "libraries": library_versions(),
        }
    )

    def keep(places: list[Place], rows: np.ndarray, values: Tensor) -> None:
        digests = b"".join(query_digest(wanted.queries[row]) for row in rows)
        arrays = {QUERIES: np.frombuffer(digests, np.uint8).reshape(len(rows), -1)}
        arrays |= {N_TOKENS: survey.n_tokens[rows], FULL_TOKENS: survey.full_tokens[rows]}
        names = [tensor_name(*place) for place in places]
        folder.add(arrays | dict(zip(names, values.cpu().numpy(), strict=True)))

    itemsize = check_storage(key["storage_dtype"])().itemsize
    _read(reader, survey, wanted.queries, _missing(folder, wanted), itemsize, keep)


def _read(
    reader: Reader | RayReader,
    survey: Survey,
    texts: list[str],
    groups: list[tuple[list[Place], np.ndarray]],
    itemsize: int,
    keep: Callable[[list[Place], np.ndarray, Tensor], None],
) -> None:
    """Read some places of some rows, and have the states of each shard kept, in another thread."""
    lengths, width = survey.n_tokens, survey.layout.width
    n_prompts = sum(len(rows) for _, rows in groups)
    n_tokens = sum(int(lengths[rows].sum()) for _, rows in groups)
    with (
        quiet(),
        write_behind(keep) as put,
        meter("Reading prompts", n_prompts, n_tokens) as bar,
    ):

        def advance(rows: np.ndarray) -> None:
            bar(len(rows), int(lengths[rows].sum()))

        for places, rows in groups:
            n_rows = max(1, SHARD_BYTES // (len(places) * width * itemsize))
            shards = group_batches(survey.plan(rows, n_rows), n_rows)
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
