"""Read shards on a Ray cluster: workers with one encoder each, whichever is free reads the next."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefill_router.errors import InputError
from prefill_router.extraction.models import SPREAD, Device, quiet
from prefill_router.extraction.prefill import EncoderSpec, Place, Reader, Survey
from prefill_router.extraction.sources import resolve, weights_hash
from prefill_router.storage import versions

TRIES = 4  # workers that a shard may take down before it is given up
PATIENCE = 5.0  # seconds for a machine of a cluster to answer
NAMED = 5  # queries named of a shard that is given up


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
        source = resolve(f"{repository}@{source.revision}" if source.is_hub else source.name)
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
    For a worker that is lost another is started, and the shard that it was reading is read again,
    after the others. A shard that `TRIES` workers were lost over is given up; the others are read
    all the same, unless more are given up than were read.
    """

    def __init__(self, spec: EncoderSpec, workers: int | None):
        import ray

        self.workers = workers
        self.resources = needs(spec.device, torch.get_num_threads())
        self._start = partial(
            ray.remote(Worker).options(**self.resources).remote, spec, torch.get_num_threads()
        )
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

        wanted = min(self.workers or max(1, room(self.resources)), len(shards))
        self._free.extend(self._start() for _ in range(wanted - len(self._free)))
        waiting, running = deque(range(len(shards))), {}
        tried, given_up, n_read = Counter(), [], 0
        while (waiting or running) and len(given_up) <= n_read + 1:
            while waiting and self._free:
                number, worker = waiting.popleft(), self._free.popleft()
                texts = [queries[row] for rows in shards[number] for row in rows]
                sizes = [len(rows) for rows in shards[number]]
                running[worker.read.remote(texts, sizes, places)] = number, worker
            (done,), _ = ray.wait(list(running), num_returns=1)
            number, worker = running.pop(done)
            try:
                states = _result(done)
            except ray.exceptions.RayError:  # the worker was lost
                self._free.append(self._start())
                tried[number] += 1
                (given_up if tried[number] == TRIES else waiting).append(number)
                continue
            self._free.append(worker)
            n_read += 1
            rows = np.concatenate(shards[number])
            advance(rows)
            yield rows, torch.tensor(states)
        if given_up:
            raise InputError(self._lost({number: shards[number] for number in sorted(given_up)}))

    def _lost(self, shards: dict[int, Sequence[np.ndarray]]) -> str:
        named = []
        for number, batches in shards.items():
            rows = np.concatenate(batches)
            more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
            named.append(
                f"shard {number} (queries {', '.join(map(str, rows[:NAMED]))}{more}; up to "
                f"{self._survey.n_tokens[rows].max()} tokens)"
            )
        return (
            f"Every worker that read one of these was lost, {TRIES} times each: "
            f"{'; '.join(named)}. What else was read is kept. Mostly a worker's machine has too "
            "little memory: set a smaller token_budget or max_tokens, or fewer workers. Then run "
            "again."
        )


def _result(reference) -> Any:
    """Return what a worker returned, or raise what it raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def needs(device: Device, threads: int) -> dict[str, int]:
    """Return the CPUs and GPUs that a worker is to have to itself.

    On a GPU one of each, or all GPUs of a machine where the encoder is spread over them; on a CPU
    as many as threads. Never more than a machine has: a worker must start to say what it lacks.
    InputError if no machine has a CPU: no worker would ever start.
    """
    most = {kind: max(int(m.get(kind, 0)) for m in machines()) for kind in ("CPU", "GPU")}
    if not most["CPU"]:
        raise InputError(
            "The Ray cluster has no machine with a CPU for a worker; start one with "
            "`ray start --address=ADDRESS`, without --num-cpus=0."
        )
    is_spread = not isinstance(device, str) or device == SPREAD
    gpus = 0 if device == "cpu" else most["GPU"] if is_spread else min(1, most["GPU"])
    return {"num_cpus": 1 if gpus else min(threads, most["CPU"]), "num_gpus": gpus}


def room(resources: dict[str, int]) -> int:
    """Return how many workers with such needs the cluster's machines have room for."""
    cpus, gpus = resources["num_cpus"], resources["num_gpus"]
    return sum(
        int(min(m.get("CPU", 0) // cpus, m.get("GPU", 0) // gpus if gpus else inf))
        for m in machines()
    )


def machines() -> list[dict[str, float]]:
    """Return the resources of each machine in the cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
