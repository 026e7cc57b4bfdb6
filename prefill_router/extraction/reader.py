"""Reading with the encoder that a process holds: a whole plan, or a cluster's worker its shards."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefill_router.errors import InputError
from prefill_router.extraction import Reading, prepare, read_batches
from prefill_router.extraction.devices import Device, device_name
from prefill_router.extraction.layout import Layout
from prefill_router.extraction.models import input_device, load_encoder, quiet
from prefill_router.extraction.prefill import Prefill
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.storage import versions


@dataclass(frozen=True)
class Job:
    """All that a process must know to read as any other would.

    Attributes
    ----------
    source : ModelSource
        The encoder.
    key : dict
        What decides the states, from `prefill_router.extraction.keys.make_key`.
    loading : tuple of device, dtype and trust_remote_code
        As `load_encoder` takes them.
    settings : dict
        As `prefill_router.extraction.settings.Settings` takes them.
    """

    source: ModelSource
    key: dict[str, Any]
    loading: tuple[Device, str, bool]
    settings: dict[str, Any]

    def load(self, questions: Sequence[str]) -> tuple[Any, Reading]:
        """Return the model, and what `prepare` settles for some questions."""
        model, tokenizer = load_encoder(self.source, *self.loading)
        return model, prepare(model, tokenizer, questions, **self.settings)

    def found_here(self) -> Job:
        """Return the job with the encoder as it lies on this machine, once that is the right one.

        Raises
        ------
        InputError
            If this machine lacks the encoder, has another under its name, or has another version of
            the code.
        """
        source = self.source
        if not source.location.exists():  # on the driver's machine, not on this one
            repository = source.name.partition("@")[0]
            source = resolve(f"{repository}@{source.revision}" if source.is_hub else source.name)
        here = {
            "code": versions("extraction"),
            "weights": weights_hash(source),
            "transformers": version("transformers"),
        }
        differing = sorted(name for name in here if here[name] != self.key[name])
        if differing:
            raise InputError(
                f"The worker on {platform.node()} has other {', '.join(differing)} than the "
                f"driver, and would write other states. Install the same versions on every "
                f"machine, and put the same encoder at {self.source.location}."
            )
        return replace(self, source=source)


class LocalReader:
    """Reads a plan's batches in this process.

    Parameters
    ----------
    job : Job
    questions : list of str, length N

    Attributes
    ----------
    reading : Reading
        All that is settled before the first batch.
    device : str
        What the encoder computes on.
    """

    def __init__(self, job: Job, questions: list[str]):
        self.questions = questions
        self.model, self.reading = job.load(questions)
        self.device = device_name(input_device(self.model))

    def read(
        self, layout: Layout, layers: list[int], shards: list[int]
    ) -> Iterator[tuple[int, np.ndarray, Tensor]]:
        """Read some layers of some shards, in turn.

        Yields
        ------
        shard : int
        rows : int64 ndarray of shape (B,)
            The next ones of the shard, in the plan's order.
        pooled : float32 Tensor of shape (n_layers, n_poolings, B, D)
            Their states; on the device, which may still be at work on it.
        """
        batches = [(shard, rows) for shard in shards for rows in layout.plan.batches(shard)]
        prefill = Prefill(self.model, self.reading.anatomy, layers, self.reading.poolings)
        prompts = self.reading.prompts
        results = read_batches(prefill, prompts, self.questions, (rows for _, rows in batches))
        for (shard, _), (rows, pooled) in zip(batches, results, strict=True):
            yield shard, rows, pooled


def settle(job: Job, questions: list[str]) -> tuple[Reading, str]:
    """Return the reading and device of a `LocalReader`, without what only its process can use."""
    reader = LocalReader(job.found_here(), questions)
    reading = reader.reading
    places = None if reading.anatomy.places is None else []
    anatomy = replace(reading.anatomy, places=places)
    return replace(reading, prompts=None, anatomy=anatomy), reader.device


class Worker:
    """Reads shards that it is sent, one a call, with an encoder that the first call loads.

    Parameters
    ----------
    job : Job
    sample : str
        The question whose prompt shows what kind of model it is (`prepare`): the longest of all.
    threads : int
        Threads to compute with, as the plan has them.
    may_begin : callable
        Told a shard before it is read, says whether it is to be.
    """

    def __init__(self, job: Job, sample: str, threads: int, may_begin: Callable[[int], bool]):
        self.job = job
        self.sample = sample
        self.threads = threads
        self.may_begin = may_begin

    @cached_property
    def _loaded(self) -> tuple[Prefill, Reading]:
        torch.set_num_threads(self.threads)
        model, reading = self.job.found_here().load([self.sample])
        return Prefill(model, reading.anatomy, reading.layers, reading.poolings), reading

    def read(self, questions: list[str], sizes: Sequence[int]) -> np.ndarray:
        """Return a shard's states, float32 (n_layers, n_poolings, n, D).

        Parameters
        ----------
        questions : list of str, length n
            In the plan's order.
        sizes : sequence of int
            Of the batches, n in all.
        """
        prefill, reading = self._loaded
        batches = np.split(np.arange(len(questions)), np.cumsum(sizes)[:-1])
        with quiet():
            results = read_batches(prefill, reading.prompts, questions, batches)
            return torch.cat([pooled for _, pooled in results], dim=2).cpu().numpy()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Read a batch of one shard, as Ray Data wants it done."""
        states, error = np.empty(0, dtype=np.float32), ""
        begun = self.may_begin(int(batch["shard"][0]))
        try:
            if begun:
                states = self.read(batch["questions"][0].tolist(), batch["sizes"][0])
        except InputError as caught:  # as text: Ray would add many words of its own
            error = str(caught)
        return {
            "shard": batch["shard"], "begun": [begun], "states": states[None], "error": [error]
        }  # fmt: skip
