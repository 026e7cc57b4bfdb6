"""Measure every layer and pooling, a core a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from prefill_router.progress import track

T = TypeVar("T")


def each_layer(
    measure: Callable[[int, str], T],
    layers: Sequence[int],
    poolings: Sequence[str],
    description: str,
) -> list[T]:
    """Return what `measure` says of each layer and pooling.

    Layers are independent, and their products too small to share a core's work: each is measured in
    one thread, as many at a time as there are cores. That number does not change a result.

    Parameters
    ----------
    measure : callable
        Called with a layer and a pooling.
    layers : sequence of int
    poolings : sequence of str
    description : str
        What is being done, in plain words.

    Returns
    -------
    list
        In the order of layers, then poolings.
    """
    places = [(layer, pooling) for layer in layers for pooling in poolings]
    workers = Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    with threadpool_limits(1, user_api="blas"):
        found = workers(delayed(measure)(*place) for place in places)
        return list(track(found, description, len(places)))
