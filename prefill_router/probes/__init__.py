"""Probes of every layer and pooling: Fisher separability, effective dimensionality, anisotropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from prefill_router.probes.decomposition import decompose
from prefill_router.probes.geometry import anisotropy, effective_dimensionality
from prefill_router.probes.parallel import each_layer
from prefill_router.probes.separability import pca_separability, separability, whitened_separability
from prefill_router.probes.statistics import moments

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations


def probe_layers(
    activations: Activations, Y: np.ndarray, rows: np.ndarray, pca_dimension: int = 50
) -> pd.DataFrame:
    """Probe every layer and pooling.

    Each layer's states are read once; sums over them are taken in float64 a chunk of rows at a
    time, so that beside the float32 states only D x D numbers are held.

    Parameters
    ----------
    activations : Activations
        Pooled states of N queries.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    rows : ndarray of int
        The training rows, the only ones looked at.
    pca_dimension : int, default 50
        Dimension of the reduced features that ``J_pca`` and ``J_white`` are taken on.

    Returns
    -------
    pandas.DataFrame
        One row for each layer, pooling and target (a column of `Y`): ``layer``, ``pooling``,
        ``target``, ``J`` (standardised states), ``J_pca`` (their first principal components,
        not standardised again), ``J_white`` (`whitened_separability`
        of these), ``d_eff``, ``anisotropy`` and ``constant``, which is true where all states are
        the same (then J is 0 and d_eff NaN).
    """
    Y = np.asarray(Y, dtype=np.float64)[rows]

    def measure(layer: int, pooling: str) -> pd.DataFrame:
        states = activations.states(layer, pooling)[rows]
        summed = moments(states)
        reduction = decompose(states, pca_dimension, summed)
        features = reduction.transform(states)
        columns = {
            "layer": layer,
            "pooling": pooling,
            "target": np.arange(Y.shape[1]),
            "J": separability(states, Y),
            "J_pca": pca_separability(features, Y),
            "J_white": whitened_separability(features, Y),
            "d_eff": effective_dimensionality(states, summed),
            "anisotropy": anisotropy(states),
            "constant": reduction.constant,
        }
        return pd.DataFrame(columns)

    tables = each_layer(measure, activations.layers, activations.poolings, "Probing layers")
    return pd.concat(tables, ignore_index=True)
