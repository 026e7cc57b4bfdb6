"""Extraction to disk: shard by shard, safe to kill, resumed where it stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.activations import StoredStates, finish
from prefill_router.extraction.devices import Device
from prefill_router.extraction.keys import check_key, make_key, question_digest
from prefill_router.extraction.layout import PLAN, Layout
from prefill_router.extraction.locks import alone_in
from prefill_router.extraction.models import quiet
from prefill_router.extraction.plan import make_plan
from prefill_router.extraction.ray_engine import RayReader, ray_reader
from prefill_router.extraction.reader import Job, LocalReader
from prefill_router.extraction.reuse import Known, find_known, named_known
from prefill_router.extraction.shards import STORAGE
from prefill_router.extraction.sources import ModelSource
from prefill_router.extraction.templates import check_questions
from prefill_router.extraction.threads import behind
from prefill_router.extraction.writer import ShardWriter
from prefill_router.progress import meter
from prefill_router.storage import MANIFEST, Store

SHARD_BYTES = 64 * 2**20  # what is lost at most when a run is stopped, and held in memory
ENGINES = ("local", "ray")
LIBRARIES = ("prefill-router", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def extract(
    source: ModelSource,
    questions: Sequence[str],
    directory: str | Path,
    *,
    storage_dtype: Literal["float32", "float16"] = "float32",
    device: Device = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    reuse: Iterable[Path] = (),
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    **settings: Any,
) -> StoredStates:
    """Write the pooled prefill states of `questions` into a directory, or go on doing so.

    Parameters
    ----------
    source : ModelSource
        The encoder, from `prefill_router.extraction.sources.resolve`.
    questions : sequence of str, length N
    directory : path-like
        Made if need be. A second process that is given the same one says so, and waits.
    storage_dtype : {"float32", "float16"}, default "float32"
        Type on disk; they are read back as float32.
    device, dtype, trust_remote_code
        As for `prefill_router.extraction.models.load_encoder`.
    reuse : iterable of path-like
        Finished extractions. States of the same encoder and settings are taken over from one of
        them, so that only new queries and new layers are read.
    engine : {"local", "ray"}, default "local"
        Who reads: this process, or workers on a Ray cluster, each with an encoder of its own. The
        states are the same, and either goes on where the other stopped.
    address, workers : optional
        For Ray: as for `prefill_router.extraction.ray_engine.ray_reader`.
    **settings
        What is read and how: the parameters of `prefill_router.extraction.settings.Settings`.

    Returns
    -------
    StoredStates

    Raises
    ------
    InputError
        As for `encode` and `load_encoder`; if the directory holds other activations or damaged
        ones, or cannot be written; or if a state does not fit into float16.

    Notes
    -----
    The plan of batches and shards is written first and kept, with its token budget and its number
    of threads, whenever an extraction goes on: with the same plan, device and threads the bytes
    are the same, whether it was stopped or not. A shard is there whole or not at all, and the
    manifest comes last.
    """
    deciding = {"dtype": dtype, "trust_remote_code": trust_remote_code, **settings}
    key = make_key(source, questions, storage_dtype=storage_dtype, **deciding)
    job = Job(source, key, (device, dtype, trust_remote_code), settings)
    questions = check_questions(questions)
    reader = _choose(engine, job, questions, address, workers)
    directory = Path(directory)
    if not (directory / MANIFEST).is_file():
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with alone_in(directory):
                if (directory / PLAN).is_file():
                    check_key(directory, key)
                if not (directory / MANIFEST).is_file():  # nor has another process finished it
                    with reader as opened:
                        _go_on(directory, job, opened, questions, reuse)
        except OSError as error:
            raise InputError(
                f"{directory} cannot be written ({error.strerror or error}). What is there is "
                "kept: make room, or give another directory, and run again."
            ) from error
    check_key(directory, key)
    return StoredStates.open(directory)


def extract_to_store(
    store: Store, source: ModelSource, questions: Sequence[str], **settings: Any
) -> StoredStates:
    """Return the activations of `questions` from a store, extracting what is not there.

    Parameters
    ----------
    store : Store
        Artifacts in it are addressed by everything that decides the states: the model's files, the
        questions, the settings, and the versions of this package and transformers. Device, batch
        size and engine are not among them: they change rounding only. States that another artifact
        of the store holds are taken over.
    source, questions
        As for `extract`.
    **settings
        The other parameters of `extract`.

    Returns
    -------
    StoredStates

    Raises
    ------
    InputError
        As for `extract`.
    """
    kept = ("device", "engine", "address", "workers")
    decisive = {name: value for name, value in settings.items() if name not in kept}
    directory = store.path("activations", make_key(source, questions, **decisive))
    reuse = sorted(path for path in store.root.glob("activations-*") if path != directory)
    return extract(source, questions, directory, reuse=reuse, **settings)


Reader = LocalReader | RayReader


@contextlib.contextmanager
def _local_reader(job: Job, questions: list[str]) -> Iterator[LocalReader]:
    yield LocalReader(job, questions)


def _choose(
    engine: str, job: Job, questions: list[str], address: str | None, workers: int | None
) -> contextlib.AbstractContextManager[Reader]:
    """Return the engine's reader, which loads nothing before it is entered."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown." + did_you_mean(engine, ENGINES))
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1.")
    if engine == "ray":
        return ray_reader(job, questions, address, workers)
    if address or workers:
        raise InputError("address and workers are for the engine ray; set engine to ray.")
    return _local_reader(job, questions)


def _go_on(
    directory: Path, job: Job, reader: Reader, questions: list[str], reuse: Iterable[Path]
) -> None:
    """Lay the extraction out, unless that was done, do what is left to do, and finish."""
    for stale in directory.glob(".*.*"):  # begun by a process that was killed
        stale.unlink()
    if (directory / PLAN).is_file():
        layout = Layout.load(directory)
        known = named_known(layout, reuse)
    else:
        layout, known = _lay_out(job, reader, questions, reuse)
        layout.save(directory)
    with _threads(layout.description["threads"]), quiet():
        _fill(directory, layout, reader, known)
    finish(directory, layout)


def _lay_out(
    job: Job, reader: Reader, questions: list[str], reuse: Iterable[Path]
) -> tuple[Layout, Known | None]:
    """Fix what is read with which, first the new queries and then those known in part."""
    source, key, reading = job.source, job.key, reader.reading
    digests = np.stack([question_digest(question) for question in questions])
    known = find_known(reuse, key, digests, reading)
    per_row = len(reading.layers) * len(reading.poolings) * reading.anatomy.width
    per_row *= STORAGE[key["storage_dtype"]]().itemsize
    rows_per_shard = max(1, SHARD_BYTES // per_row)
    new = np.arange(len(questions)) if known is None else np.flatnonzero(known.rows < 0)
    new = new[np.argsort(-reading.n_tokens[new], kind="stable")]
    sizes = reading.n_tokens, reading.token_budget, rows_per_shard, reading.switch
    plan = make_plan(*sizes, rows=new)
    n_new_shards = len(plan.shard_ends)
    if known is not None:
        plan = plan.followed_by(make_plan(*sizes, rows=known.in_order()))
    description = {
        "key": key,
        "encoder": {"name": source.name, "revision": source.revision, "files": source.hashes()},
        "layers": reading.layers,
        "poolings": reading.poolings,
        "width": reading.anatomy.width,
        "last_layer": reading.anatomy.last,
        "attention_mask": not reading.anatomy.is_causal,
        "whole_passes": reading.anatomy.places is None,
        "device": reader.device,
        "threads": torch.get_num_threads(),
        "token_budget": reading.token_budget,
        "n_new_shards": n_new_shards,
        "taken_over": None if known is None else known.describe(),
        "libraries": {library: version(library) for library in LIBRARIES},
    }
    layout = Layout(description, plan, reading.n_tokens, reading.full_tokens, digests)
    return layout, known


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fill(directory: Path, layout: Layout, reader: Reader, known: Known | None) -> None:
    """Read and write every shard that is not there, and verify those that are."""
    missing = []
    for shard in range(len(layout.plan.shard_ends)):
        if layout.shard_path(directory, shard).exists():
            opened = layout.open_shard(directory, shard)
            for key in layout.places:
                opened.read(key)
        else:
            missing.append(shard)
    n_new = layout.description["n_new_shards"]
    for shards, taken in (
        ([shard for shard in missing if shard < n_new], None),
        ([shard for shard in missing if shard >= n_new], known),
    ):
        if not shards:
            continue
        wanted, held = layout.description["layers"], () if taken is None else taken.layers
        layers = [layer for layer in wanted if layer not in held]
        writer = ShardWriter(directory, layout, layers, taken)
        if not layers:
            for shard in shards:
                writer.write(shard)
            continue
        rows = np.concatenate([layout.plan.shard(shard) for shard in shards])
        with (
            behind(writer.add) as put,
            meter("Reading prompts", len(rows), int(layout.n_tokens[rows].sum())) as advance,
        ):
            for shard, rows, pooled in reader.read(layout, layers, shards):
                put(shard, pooled)
                advance(len(rows), int(layout.n_tokens[rows].sum()))
