"""Read shards on a Ray cluster: workers with one encoder each, whichever is free reads the next."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefill_router.errors import InputError
from prefill_router.extraction.models import SPREAD, Device, quiet
from prefill_router.extraction.prefill import EncoderSpec, Place, Reader, Survey
from prefill_router.extraction.sources import resolve, weights_hash
from prefill_router.storage import versions

TRIES = 4  # workers that a shard may take down before it is given up; at least 2
PATIENCE = 5.0  # seconds for a machine of a cluster to answer
NAMED = 5  # queries named of those that were given up


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
            check_reachable(address)
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


def check_reachable(address: str) -> None:
    """Raise OSError or ValueError if nothing listens at HOST:PORT: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


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

    def read(self, queries: list[str], sizes: list[int], places: list[Place]) -> np.ndarray:
        """Return a shard's states, (n_places, n, D), read in batches of these sizes."""
        batches = np.split(np.arange(len(queries)), np.cumsum(sizes)[:-1])
        with quiet():
            ((_, states),) = self._reader.read(queries, [batches], places)
        return states.cpu().numpy()


def found_here(spec: EncoderSpec) -> EncoderSpec:
    """Return the encoder as it lies on this machine, once that is the right one.

    Raises
    ------
    InputError
        If this machine lacks the encoder, has another under its name, or has other versions.
    """
    source = spec.source
    if not source.location.exists():  # on the driver's machine, not on this one
        repository = source.name.partition("@")[0]
        source = resolve(f"{repository}@{source.revision}" if source.revision else source.name)
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
        self._free = deque([self._start()])

    def survey(self, queries: list[str]) -> Survey:
        """As `Reader.survey`; no model is loaded in this process."""
        import ray

        try:
            self._survey = _result(self._free[0].survey.remote(queries))
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

        n_new = min(self._most, len(shards)) - len(self._free)
        self._free.extend(self._start() for _ in range(n_new))
        waiting, running, lost, n_read = deque(shards), {}, [], 0
        while (waiting or running) and len(lost) <= n_read + 1:
            while waiting and self._free:
                shard, worker = waiting.popleft(), self._free.popleft()
                texts = [queries[row] for rows in shard for row in rows]
                task = worker.read.remote(texts, [len(rows) for rows in shard], places)
                running[task] = np.concatenate(shard), worker
            (done,), _ = ray.wait(list(running), num_returns=1)
            rows, worker = running.pop(done)
            self._free.append(worker)
            try:
                states = _result(done)
            except ray.exceptions.RayError:
                lost.append(rows)
                continue
            n_read += 1
            advance(rows)
            yield rows, torch.tensor(states)
        if lost:
            raise InputError(self._report(np.concatenate(lost)))

    def _report(self, rows: np.ndarray) -> str:
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return (
            f"Every worker that read one of these was lost, {TRIES} times each: queries "
            f"{', '.join(map(str, rows[:NAMED]))}{more}; up to {self._survey.n_tokens[rows].max()} "
            "tokens. What else was read is kept. Mostly a worker's machine has too little memory: "
            "set a smaller token_budget or max_tokens, or fewer workers. Then run again."
        )


def _result(reference) -> Any:
    """Return what a worker returned, or raise what it raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def share(device: Device, threads: int) -> tuple[dict[str, int], int]:
    """Return the CPUs and GPUs that a worker has to itself, and how many workers there is room for.

    On a GPU one of each, or all GPUs of a machine where the encoder is spread over them; on a CPU
    as many as threads. Never more than a machine has: a worker must start to say what it lacks.
    InputError if no machine has a CPU: no worker would ever start.
    """
    has = [(int(m.get("CPU", 0)), int(m.get("GPU", 0))) for m in machines()]
    most_cpus, most_gpus = max(cpu for cpu, _ in has), max(gpu for _, gpu in has)
    if not most_cpus:
        raise InputError(
            "The Ray cluster has no machine with a CPU for a worker; start one with "
            "`ray start --address=ADDRESS`, without --num-cpus=0."
        )
    is_spread = not isinstance(device, str) or device == SPREAD
    gpus = 0 if device == "cpu" else most_gpus if is_spread else min(1, most_gpus)
    cpus = 1 if gpus else min(threads, most_cpus)
    room = sum(min(cpu // cpus, gpu // gpus if gpus else cpu) for cpu, gpu in has)
    return {"num_cpus": cpus, "num_gpus": gpus}, room


def machines() -> list[dict[str, float]]:
    """Return the resources of each machine in the cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
