"""Prefill states of any Hugging Face encoder: one pass per prompt, pooled at every layer."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from prefill_router.errors import InputError, check_known
from prefill_router.extraction.activations import Activations, EncoderInfo, content_key
from prefill_router.extraction.batches import group_batches
from prefill_router.extraction.models import Device, quiet
from prefill_router.extraction.pooling import check_poolings
from prefill_router.extraction.prefill import EncoderSpec, Reader, Survey, in_thread
from prefill_router.extraction.prompts import Truncation, check_questions
from prefill_router.extraction.ray_engine import RayReader, ray_reader
from prefill_router.extraction.shards import STORAGE, Folder, Place
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.progress import meter
from prefill_router.storage import Store, locked

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
        ``zoo/NAME``, a directory, ``owner/name`` on the Hugging Face hub, or what
        `prefill_router.extraction.models.load_encoder` returns, which this process reads in memory.
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
    check_known("engine", engine, ENGINES)
    check_known("storage_dtype", storage_dtype, STORAGE)
    for name, count in (("token_budget", token_budget), ("workers", workers)):
        if count is not None and count < 1:
            raise InputError(f"{name} is {count}; it must be at least 1.")
    if engine == "local" and (address or workers):
        raise InputError("address and workers are for the engine ray; set engine to ray.")
    reading = {"max_tokens": max_tokens, "truncation": truncation, "template": template,
               "template_kwargs": template_kwargs}  # fmt: skip
    if isinstance(encoder, tuple):
        if cache_dir is not None or engine != "local":
            raise InputError(
                "A loaded model is read in memory by this process; name the encoder instead to use "
                "cache_dir or another engine."
            )
        return wanted.in_memory(Reader(*encoder, token_budget, **reading))
    source = encoder if isinstance(encoder, ModelSource) else resolve(str(encoder))
    info = EncoderInfo(source.name, source.revision, weights_hash(source), dtype, **reading)
    spec = EncoderSpec(source, info, device, trust_remote_code, token_budget)
    on_ray = partial(ray_reader, spec, address, workers)
    open_reader = on_ray if engine == "ray" else lambda: contextlib.nullcontext(spec.load())
    if cache_dir is not None:
        found = wanted.on_disk(open_reader, spec, cache_dir, storage_dtype)
    else:
        with open_reader() as reader:
            found = wanted.in_memory(reader, spec)
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

    def in_memory(self, reader: Reader | RayReader, spec: EncoderSpec | None = None) -> Activations:
        """Read all states; their key is that of states on disk if it is known what reads them."""
        survey, n = reader.survey(self.queries), len(self.queries)
        places = self.places(survey.layout.last)
        states = {place: np.empty((n, survey.layout.width), np.float32) for place in places}

        def keep(places: list[Place], rows: np.ndarray, values: Tensor) -> None:
            for place, part in zip(places, values.cpu().numpy(), strict=True):
                states[place][rows] = part

        self._read(reader, survey, [(places, np.arange(n))], keep)
        found = Activations.from_arrays(states, survey.n_tokens, survey.full_tokens)
        layers = check_layers(self.layers, survey.layout.last)
        key = spec and content_key(spec.key, self.queries, layers, self.poolings)
        return replace(found, poolings=self.poolings, key=key or found.key)

    def on_disk(
        self,
        open_reader: Callable[[], contextlib.AbstractContextManager[Reader | RayReader]],
        spec: EncoderSpec,
        cache_dir: str | os.PathLike,
        storage_dtype: str,
    ) -> Activations:
        """Find states on disk; read and write only those that are not there."""
        key = {**spec.key, "storage_dtype": storage_dtype}
        path = Store(cache_dir).path("activations", key)
        try:
            folder = Folder(path, self.queries)
            if not self._is_held(folder):
                path.mkdir(parents=True, exist_ok=True)
                with locked(path):
                    folder = Folder(path, self.queries)
                    if not self._is_held(folder):  # nor has another process just read them
                        with open_reader() as reader:
                            self._fill(folder, reader, spec, key)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror or error}). What is there is kept: "
                "make room, or give another cache_dir, and run again."
            ) from error
        layers = check_layers(self.layers, folder.manifest["last_layer"])
        return Activations.open(path, self.queries, layers, self.poolings)

    def _is_held(self, folder: Folder) -> bool:
        manifest = folder.manifest
        return manifest is not None and not folder.missing(self.places(manifest["last_layer"]))

    def _fill(
        self, folder: Folder, reader: Reader | RayReader, spec: EncoderSpec, key: dict[str, Any]
    ) -> None:
        """Read what a folder lacks, and write it shard by shard."""
        survey = reader.survey(self.queries)
        layout = survey.layout
        places = self.places(layout.last)  # refuses layers that there are not, before it writes
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
            }
        )

        def keep(places: list[Place], rows: np.ndarray, values: Tensor) -> None:
            states = dict(zip(places, values.cpu().numpy(), strict=True))
            queries = [self.queries[row] for row in rows]
            folder.add(queries, survey.n_tokens[rows], survey.full_tokens[rows], states)

        self._read(reader, survey, folder.missing(places), keep)

    def _read(
        self,
        reader: Reader | RayReader,
        survey: Survey,
        groups: list[tuple[list[Place], np.ndarray]],
        keep: Callable[[list[Place], np.ndarray, Tensor], None],
    ) -> None:
        """Read some places of some queries, and have each shard kept, in another thread."""
        lengths = survey.n_tokens
        every = np.concatenate([rows for _, rows in groups])
        with quiet(), meter("Reading prompts", lengths[every]) as bar:

            def shards() -> Iterator[tuple[list[Place], np.ndarray, Tensor]]:
                for places, rows in groups:
                    n_rows = max(1, SHARD_BYTES // (4 * len(places) * survey.layout.width))
                    planned = group_batches(survey.plan(rows, n_rows), n_rows)
                    read = reader.read(self.queries, planned, places, lambda r: bar(lengths[r]))
                    yield from ((places, *shard) for shard in read)

            for _ in in_thread(lambda shard: keep(*shard), shards()):
                pass


def check_layers(layers: Literal["all", "upper"] | Sequence[int], last: int) -> list[int]:
    """Return the sorted layers meant, out of 0..`last`."""
    if isinstance(layers, str):
        named = {"all": range(last + 1), "upper": range(last // 2 + 1, last + 1)}
        check_known("layers", layers, named)
        return list(named[layers])
    chosen = sorted({int(layer) for layer in layers})
    if not chosen or chosen[0] < 0 or chosen[-1] > last:
        raise InputError(
            f"layers {chosen} must be one or more of 0..{last}: 0 is the embedding output, "
            f"{last} the last of this model's {last} blocks."
        )
    return chosen
