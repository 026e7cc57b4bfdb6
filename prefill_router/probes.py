"""How informative a layer is: Fisher separability, effective dimensionality and anisotropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from prefill_router.decomposition import column_scale, decompose
from prefill_router.errors import InputError
from prefill_router.progress import track

if TYPE_CHECKING:
    from prefill_router.activations import Activations


def separability(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    r"""Fisher separability of right from wrong answers on standardised columns, per target.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Pooled states.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.

    Returns
    -------
    ndarray of shape (K,)
        J; 0 where no column varies, NaN where a target has no right or no wrong answers.

    Notes
    -----
    .. math:: J = \frac{\lVert\mu_1 - \mu_0\rVert^2}{\mathrm{tr}\,\Sigma_0 + \mathrm{tr}\,\Sigma_1}

    [P]. Each target's labelled rows alone standardise the columns, constant columns are dropped,
    and covariances are those of the population (ddof 0). J is then unchanged by shifting or
    scaling a column.
    """
    X = np.asarray(X, dtype=np.float64)
    mean, scale = column_scale(X)
    return _fisher((X - mean) / scale, Y, standardise=True)


def _fisher(Z: np.ndarray, Y: np.ndarray, standardise: bool) -> np.ndarray:
    """J of centred columns Z (N, D) of about unit size, as they are or standardised per target."""
    Y = np.asarray(Y, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != len(Z):
        raise InputError(f"Y has shape {Y.shape}; expected ({len(Z)}, K), one row for each state.")
    wrong, mean_wrong, var_wrong = _class_moments(Z, Y == 0)
    right, mean_right, var_right = _class_moments(Z, Y == 1)
    between = (mean_right - mean_wrong) ** 2
    within = var_wrong + var_right
    if standardise:
        share = (right / np.maximum(right + wrong, 1))[:, None]
        variance = share * var_right + (1 - share) * var_wrong + share * (1 - share) * between
        constant = variance <= 1e-12
        weight = np.where(constant, 0.0, 1 / np.where(constant, 1.0, variance))
        between, within = between * weight, within * weight
    top, bottom = between.sum(axis=1), within.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        J = np.where(top == 0, 0.0, top / bottom)
    return np.where((right > 0) & (wrong > 0), J, np.nan)


def _class_moments(Z: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size (K,), means (K, D) and variances (K, D) of the rows that belong to each class (N, K)."""
    weights = member.astype(np.float64)
    count = weights.sum(axis=0)
    weights /= np.maximum(count, 1)
    mean = weights.T @ Z
    return count, mean, np.maximum(weights.T @ Z**2 - mean**2, 0.0)


def effective_dimensionality(X: np.ndarray) -> float:
    r"""Participation ratio of the covariance's eigenvalues: how many directions are in use.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Pooled states, as they are.

    Returns
    -------
    float
        Between 1 and min(N - 1, D); NaN if the rows are all the same.

    Notes
    -----
    .. math:: d_{\mathrm{eff}} = \frac{(\sum_j \lambda_j)^2}{\sum_j \lambda_j^2}
        = \frac{(\mathrm{tr}\,C)^2}{\lVert C\rVert_F^2}

    [S]. The right-hand side needs no eigenvalues; C may be the covariance or the Gram matrix of
    the centred rows, whichever is smaller, since both have the same non-zero eigenvalues.
    """
    X = np.asarray(X, dtype=np.float64)
    mean, scale = column_scale(X)
    centred = (X - mean)[:, np.isfinite(scale)]
    if centred.shape[1] == 0:
        return float("nan")
    centred /= np.abs(centred).max()
    wide = centred.shape[1] > centred.shape[0]
    matrix = centred @ centred.T if wide else centred.T @ centred
    return float(np.trace(matrix) ** 2 / np.sum(matrix**2))


def anisotropy(X: np.ndarray) -> float:
    r"""Mean cosine between the states of two different queries; near 0 is isotropic.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Pooled states, as they are. A row of zeros has cosine 0 with every other.

    Returns
    -------
    float
        Between -1 / (N - 1) and 1; NaN for fewer than two rows.

    Notes
    -----
    .. math:: \alpha = \frac{2}{N(N-1)} \sum_{i<j} \cos(h_i, h_j)
        = \frac{\lVert\sum_i u_i\rVert^2 - \sum_i\lVert u_i\rVert^2}{N(N-1)}

    [S], with unit rows u.
    """
    X = np.asarray(X, dtype=np.float64)
    n = len(X)
    if n < 2:
        return float("nan")
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    units = X / np.where(norms == 0, 1.0, norms)
    return float((np.sum(units.sum(axis=0) ** 2) - np.count_nonzero(norms)) / (n * (n - 1)))


def probe_layers(
    activations: Activations, Y: np.ndarray, rows: np.ndarray, pca_dimension: int = 50
) -> pd.DataFrame:
    """Probe every layer and pooling.

    Parameters
    ----------
    activations : Activations
        Pooled states of N queries.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    rows : ndarray of int
        The training rows, the only ones looked at.
    pca_dimension : int, default 50
        Dimension of the reduced features that ``J_pca`` is taken on.

    Returns
    -------
    pandas.DataFrame
        One row for each layer, pooling and target (a column of `Y`): ``layer``, ``pooling``,
        ``target``, ``J`` (standardised states), ``J_pca`` (their first principal components,
        not standardised again), ``d_eff``, ``anisotropy`` and ``constant``, which is true where
        all states are the same (then J is 0 and d_eff NaN).
    """
    Y = np.asarray(Y, dtype=np.float64)[rows]
    tables = []
    places = [(layer, pooling) for layer in activations.layers for pooling in activations.poolings]
    for layer, pooling in track(places, "Probing layers"):
        states = np.asarray(activations.states(layer, pooling)[rows], dtype=np.float64)
        reduction = decompose(states, pca_dimension)
        columns = {
            "layer": layer,
            "pooling": pooling,
            "target": np.arange(Y.shape[1]),
            "J": separability(states, Y),
            "J_pca": _fisher(reduction.transform(states), Y, standardise=False),
            "d_eff": effective_dimensionality(states),
            "anisotropy": anisotropy(states),
            "constant": reduction.constant,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
