"""The shape of a cloud of states, whatever they predict: effective dimensionality, anisotropy."""

from __future__ import annotations

import numpy as np

from prefill_router.probes.statistics import Moments, chunks, moments


def effective_dimensionality(X: np.ndarray, summed: Moments | None = None) -> float:
    r"""Participation ratio of the covariance's eigenvalues: how many directions are in use.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Pooled states, as they are.
    summed : Moments, optional
        Their sums, if they are known already.

    Returns
    -------
    float
        Between 1 and min(N - 1, D); NaN if the rows are all the same.

    Notes
    -----
    .. math:: d_{\mathrm{eff}} = \frac{(\sum_j \lambda_j)^2}{\sum_j \lambda_j^2}
        = \frac{(\mathrm{tr}\,C)^2}{\lVert C\rVert_F^2}

    [S]. The right-hand side needs no eigenvalues. Constant columns are dropped.
    """
    rows = moments(X) if summed is None else summed
    varying = np.isfinite(rows.scale)
    if not varying.any():
        return float("nan")
    scatter = rows.scatter / np.max(np.diag(rows.scatter), where=varying, initial=0.0)
    scatter *= varying * varying[:, None]
    return float(np.trace(scatter) ** 2 / np.sum(np.square(scatter)))


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
    n, total, n_units = len(X), np.zeros(X.shape[1]), 0
    if n < 2:
        return float("nan")
    for _, block in chunks(X):
        norms = np.linalg.norm(block, axis=1)
        total += np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0) @ block
        n_units += np.count_nonzero(norms)
    return float((np.sum(total**2) - n_units) / (n * (n - 1)))
