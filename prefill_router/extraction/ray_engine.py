"""Read shards on a Ray cluster: workers with one encoder each, whichever is free reads the next."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefill_router.errors import InputError
from prefill_router.extraction.activations import some_of
from prefill_router.extraction.models import SPREAD, Device, quiet
from prefill_router.extraction.prefill import EncoderSpec, Reader, Survey
from prefill_router.extraction.shards import Place
from prefill_router.extraction.sources import pinned, resolve, weights_hash
from prefill_router.storage import versions

TRIES = 4  # workers that a shard may take down before it is given up; at least 2
PATIENCE = 5.0  # seconds for a machine of a cluster to answer


@contextlib.contextmanager
def ray_reader(spec: EncoderSpec, address: str | None, workers: int | None) -> Iterator[RayReader]:
    """Yield a reader on a cluster, which is left, or stopped if it was started here, at the end.

    Parameters
    ----------
    spec : EncoderSpec
    address, workers
        As for `prefill_router.extraction.extract`.

    Raises
    ------
    InputError
        If Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            "engine ray needs Ray: pip install -e '.[ray]' in the project's directory, on every "
            "machine."
        ) from None
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_mine = not ray.is_initialized()
    try:
        if is_mine:
            host, colon, port = address.removeprefix("ray://").rpartition(":")
            if colon:  # where nothing listens Ray itself tries for minutes
                socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
            ray.init(address, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError, ImportError) as error:
        raise InputError(
            f"The Ray cluster at {address} cannot be reached: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield RayReader(spec, workers)
    finally:
        if is_mine:
            ray.shutdown()


class Worker:
    """One encoder on some machine of the cluster, loaded by the first call."""

    def __init__(self, spec: EncoderSpec, threads: int):
        self.spec = spec
        self.threads = threads

    @cached_property
    def _reader(self) -> Reader:
        torch.set_num_threads(self.threads)
        return found_here(self.spec).load()

    def survey(self, queries: list[str]) -> Survey:
        """As `Reader.survey`."""
        return self._reader.survey(queries)

    def read(
        self, queries: Mapping[int, str], shard: Sequence[np.ndarray], places: Sequence[Place]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a shard's rows, and their states (n_places, n, D)."""
        with quiet():
            ((rows, states),) = self._reader.read(queries, [shard], places)
        return rows, states.cpu().numpy()


def found_here(spec: EncoderSpec) -> EncoderSpec:
    """Return the encoder as it lies on this machine, once that is the right one.

    Raises
    ------
    InputError
        If this machine lacks the encoder, has another under its name, or has other versions.
    """
    source = spec.source
    if not source.location.exists():  # on the driver's machine, not on this one
        source = resolve(pinned(source.name, source.revision))
    mine = versions("extraction")
    differing = [name for name, value in spec.versions.items() if mine.get(name) != value]
    if weights_hash(source) != spec.info.weights:
        differing.append("weights")
    if differing:
        raise InputError(
            f"The worker on {platform.node()} has other {', '.join(sorted(differing))} than the "
            "driver, and would write other states. Install the same versions on every machine, "
            f"and put the same encoder at {spec.source.location}."
        )
    return replace(spec, source=source)


class RayReader:
    """Has workers read shards, whichever is free the next; made by `ray_reader`.

    Notes
    -----
    For a worker that is lost Ray starts another, which reads the shard again. A shard that `TRIES`
    workers were lost over is given up; the others are read all the same, unless more are given up
    than were read.
    """

    def __init__(self, spec: EncoderSpec, workers: int | None):
        import ray

        threads = torch.get_num_threads()
        resources, room = share(spec.device, threads)
        options = resources | {"max_restarts": -1, "max_task_retries": TRIES - 1}
        self._start = partial(ray.remote(Worker).options(**options).remote, spec, threads)
        self._most = workers or max(1, room)
        self._workers = [self._start()]

    def survey(self, queries: list[str]) -> Survey:
        """As `Reader.survey`; no model is loaded in this process."""
        import ray

        try:
            self._survey = ray.get(self._workers[0].survey.remote(queries))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise InputError(
                "The worker that loads the encoder and counts tokens was lost, most likely for "
                f"want of memory on its machine ({str(error).splitlines()[0]})."
            ) from error
        return self._survey

    def read(
        self,
        queries: Sequence[str],
        shards: Sequence[Sequence[np.ndarray]],
        places: Sequence[Place],
        advance: Callable[[np.ndarray], None],
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield shards as they are read; as `Reader.read`.

        Raises
        ------
        InputError
            If a worker finds something wrong; or, at the end, if shards were given up.
        """
        import ray
        from ray.util import ActorPool

        def start(worker, shard: Sequence[np.ndarray]):
            texts = {row: queries[row] for rows in shard for row in rows.tolist()}
            return worker.read.remote(texts, shard, places)

        n_new = min(self._most, len(shards)) - len(self._workers)
        self._workers += [self._start() for _ in range(n_new)]
        pool = ActorPool(self._workers)
        for shard in shards:
            pool.submit(start, shard)
        unread, n_read, n_lost = set(np.concatenate(list(map(np.concatenate, shards)))), 0, 0
        while pool.has_next() and n_lost <= n_read + 1:
            try:
                rows, states = pool.get_next_unordered()
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError:
                n_lost += 1
                continue
            n_read += 1
            unread.difference_update(rows)
            advance(rows)
            yield rows, torch.tensor(states)
        if unread:
            rows = sorted(unread)
            raise InputError(
                f"Workers were lost over {n_lost} shards, {TRIES} times each. Not read: queries "
                f"{some_of(rows)}; up to {self._survey.n_tokens[rows].max()} tokens. What else was "
                "read is kept. Mostly a worker's machine has too little memory: set a smaller "
                "token_budget or max_tokens, or fewer workers. Then run again."
            )


def share(device: Device, threads: int) -> tuple[dict[str, int], int]:
    """Return the CPUs and GPUs that a worker has to itself, and how many workers there is room for.

    On a GPU one of each, or all GPUs of a machine where the encoder is spread over them; on a CPU
    as many as threads. Never more than a machine has: a worker must start to say what it lacks.
    InputError if no machine has a CPU: no worker would ever start.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in alive]
    has = [machine for machine in has if machine[0]]  # without a CPU a machine's GPUs are no use
    if not has:
        raise InputError(
            "The Ray cluster has no machine with a CPU for a worker; start one with "
            "`ray start --address=ADDRESS`, without --num-cpus=0."
        )
    most_cpus, most_gpus = map(max, zip(*has, strict=True))
    is_spread = not isinstance(device, str) or device == SPREAD
    gpus = 0 if device == "cpu" else most_gpus if is_spread else min(1, most_gpus)
    cpus = 1 if gpus else min(threads, most_cpus)
    room = sum(min(cpu // cpus, gpu // gpus if gpus else cpu) for cpu, gpu in has)
    return {"num_cpus": cpus, "num_gpus": gpus}, room
