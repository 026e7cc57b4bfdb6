"""Probes of every layer and pooling: Fisher separability, effective dimensionality, anisotropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from prefill_router.probes.decomposition import decompose, moments
from prefill_router.probes.measures import (
    anisotropy,
    effective_dimensionality,
    separability,
    whitened_separability,
)
from prefill_router.progress import track

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations

T = TypeVar("T")


def probe_layers(
    states: Activations, Y: np.ndarray, rows: np.ndarray | None = None, pca_dimension: int = 50
) -> pd.DataFrame:
    """Measure the states of every layer and pooling.

    Each layer's states are read once; sums over them are taken in float64 a chunk of rows at a
    time, so that beside the float32 states only D x D numbers are held.

    Parameters
    ----------
    states : Activations
        Pooled states of N queries, extracted or one's own (`Activations.from_arrays`).
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    rows : ndarray of int, optional
        The training rows, the only ones looked at; all by default.
    pca_dimension : int, default 50
        Dimension of the reduced features that ``J_pca`` and ``J_white`` are taken on.

    Returns
    -------
    pandas.DataFrame
        One row for each layer, pooling and target (a column of `Y`): ``layer``, ``pooling``,
        ``target``, ``J`` (standardised states), ``J_pca`` (their first principal components, not
        standardised again), ``J_white`` (`whitened_separability` of these), ``d_eff``,
        ``anisotropy`` and ``constant``, which is true where all states are the same (then J is 0
        and d_eff NaN).
    """
    rows = slice(None) if rows is None else rows
    Y = np.asarray(Y, dtype=np.float64)[rows]

    def measure(layer: int, pooling: str) -> pd.DataFrame:
        X = states.states(layer, pooling)[rows]
        summed = moments(X)
        reduction = decompose(X, pca_dimension, summed)
        features = reduction.transform(X)
        columns = {
            "layer": layer,
            "pooling": pooling,
            "target": np.arange(Y.shape[1]),
            "J": separability(X, Y),
            "J_pca": separability(features, Y, standardise=False),
            "J_white": whitened_separability(features, Y),
            "d_eff": effective_dimensionality(X, summed),
            "anisotropy": anisotropy(X),
            "constant": reduction.constant,
        }
        return pd.DataFrame(columns)

    tables = each_layer(measure, states.layers, states.poolings, "Probing layers")
    return pd.concat(tables, ignore_index=True)


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
