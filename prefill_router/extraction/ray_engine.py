"""The same plan on a Ray cluster: workers with one encoder each read its shards."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefill_router.errors import InputError
from prefill_router.extraction import Reading
from prefill_router.extraction.devices import SPREAD, Device
from prefill_router.extraction.layout import Layout
from prefill_router.extraction.reader import Job, Worker, settle

TRIES = 4  # workers that a shard may take down before it is given up
PATIENCE = 5.0  # seconds for a machine to answer that is said to be a cluster's
NAMED = 5  # queries named of a shard that is given up


@contextlib.contextmanager
def ray_reader(
    job: Job, questions: list[str], address: str | None, workers: int | None
) -> Iterator[RayReader]:
    """Yield a reader on a cluster, which is left, or stopped if it was started here, at the end.

    Parameters
    ----------
    job : Job
    questions : list of str
    address : str, optional
        Of a running cluster. By default the environment variable ``RAY_ADDRESS``; without it a
        cluster of this machine is started.
    workers : int, optional
        By default as many as there is room for.

    Raises
    ------
    InputError
        If Ray is not installed, the cluster cannot be reached, or a worker finds something wrong.
    """
    try:
        import ray
        import ray.data
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
            _knock(address)
            ray.init(address, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError, ImportError) as error:
        raise InputError(
            f"The Ray cluster at {address} cannot be reached: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield RayReader(job, questions, workers)
    finally:
        if is_mine:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError or ValueError if nobody listens there: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


class RayReader:
    """Has workers read a plan's shards, whichever is free the next; made by `ray_reader`.

    Parameters
    ----------
    job, questions, workers
        As for `ray_reader`.

    Notes
    -----
    A worker that is lost is started again, and what it had not finished is read again: Ray Data
    does so without end. So a shard that was begun `TRIES` times in vain, as `Tally` knows, is
    given up; the others are read all the same, unless more are given up than were read.
    """

    def __init__(self, job: Job, questions: list[str], workers: int | None):
        self.job = job
        self.questions = questions
        self.workers = workers

    @property
    def reading(self) -> Reading:
        """All that is settled before the first batch; no model is loaded in this process."""
        return self._settled[0]

    @property
    def device(self) -> str:
        """What the workers compute on."""
        return self._settled[1]

    @cached_property
    def _settled(self) -> tuple[Reading, str]:
        import ray

        task = ray.remote(settle).options(max_retries=1, **needs(self.job.loading[0], threads=1))
        try:
            return ray.get(task.remote(self.job, self.questions))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, InputError) else error) from None
        except ray.exceptions.RayError as error:  # Ray has tried it twice
            raise InputError(
                "The worker that loads the encoder and counts tokens was lost, most likely for "
                f"want of memory on its machine ({str(error).splitlines()[0]})."
            ) from error

    def read(
        self, layout: Layout, layers: list[int], shards: list[int]
    ) -> Iterator[tuple[int, np.ndarray, Tensor]]:
        """Yield shards as they are read; as `prefill_router.extraction.reader.LocalReader.read`.

        Raises
        ------
        InputError
            At the end, if shards were given up.
        """
        import ray

        sample = self.questions[int(layout.full_tokens.argmax())]
        job = replace(self.job, settings=self.job.settings | {"layers": layers})
        threads = layout.description["threads"]
        resources = needs(job.loading[0], threads)
        workers = self.workers or max(1, room(resources))
        tally = ray.remote(Tally).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()

        def may_begin(shard: int) -> bool:
            return ray.get(tally.begin.remote(shard)) <= TRIES

        n_read, given_up = 0, []
        with _quiet(ray.data.DataContext.get_current()):
            results = ray.data.from_items(
                [self._item(layout, shard) for shard in shards], override_num_blocks=len(shards)
            ).map_batches(
                Worker,
                fn_constructor_args=(job, sample, threads, may_begin),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards))),
                **resources,
            )
            for batch in results.iter_batches(batch_size=None):
                for shard, begun, states, error in zip(
                    *(batch[name] for name in ("shard", "begun", "states", "error")), strict=True
                ):
                    if error:
                        raise InputError(error)
                    if begun:
                        n_read += 1
                        yield int(shard), layout.plan.shard(shard), torch.tensor(states)
                    else:
                        given_up.append(int(shard))
                if len(given_up) > n_read + 1:
                    break
        if given_up:
            raise InputError(_lost(layout, given_up))

    def _item(self, layout: Layout, shard: int) -> dict[str, Any]:
        rows, batches = layout.plan.shard(shard), layout.plan.batches(shard)
        questions = [self.questions[row] for row in rows]
        return {"shard": shard, "questions": questions, "sizes": [len(rows) for rows in batches]}


class Tally:
    """Counts how often each shard is begun, in a process that outlives the workers."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Return which try of a shard this is, from 1."""
        self._begun[shard] += 1
        return self._begun[shard]


def _lost(layout: Layout, shards: list[int]) -> str:
    named = []
    for shard in sorted(shards):
        rows = layout.plan.shard(shard)
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        named.append(
            f"shard {shard} (queries {', '.join(map(str, rows[:NAMED]))}{more}; up to "
            f"{layout.n_tokens[rows].max()} tokens)"
        )
    return (
        f"Every worker that read one of these was lost, {TRIES} times each: {'; '.join(named)}. "
        "What else was read is kept. Mostly a worker's machine has too little memory: set a "
        "smaller token_budget or max_tokens, or fewer workers. Then run again."
    )


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


@contextlib.contextmanager
def _quiet(context) -> Iterator[None]:
    """Silence Ray Data's account of itself: progress and errors are reported here."""
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        logger.setLevel(before[2])
