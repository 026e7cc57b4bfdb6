"""Probes of every layer and pooling: Fisher separability, effective dimensionality, anisotropy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from prefill_router.labels import label_matrix
from prefill_router.probes.decomposition import (
    chunks,
    decompose,
    is_constant,
    largest_sizes,
    moments,
    spread,
)
from prefill_router.progress import track

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations

T = TypeVar("T")


def probe_layers(
    states: Activations, Y: np.ndarray, rows: np.ndarray | None = None, pca_dimension: int = 50
) -> pd.DataFrame:
    """Measure the states of every layer and pooling.

    Sums over states are taken in float64 a chunk of rows at a time, so that beside the float32
    states of a layer only D x D numbers are held.

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

    Raises
    ------
    InputError
        If `Y` is not a matrix of as many rows as there are states.
    """
    rows = slice(None) if rows is None else rows
    Y = label_matrix(Y, states)[rows]

    def measure(layer: int, pooling: str) -> pd.DataFrame:
        X = states.states(layer, pooling)[rows]
        features = decompose(X, pca_dimension).transform(X)
        columns = {
            "layer": layer,
            "pooling": pooling,
            "target": np.arange(Y.shape[1]),
            "J": separability(X, Y),
            "J_pca": separability(features, Y, standardise=False),
            "J_white": whitened_separability(features, Y),
            "d_eff": effective_dimensionality(X),
            "anisotropy": anisotropy(X),
            "constant": is_constant(X),
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
    places = list(itertools.product(layers, poolings))
    workers = Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    with threadpool_limits(1, user_api="blas"):
        found = workers(delayed(measure)(*place) for place in places)
        return list(track(found, description, len(places)))


def separability(X: np.ndarray, Y: np.ndarray, standardise: bool = True) -> np.ndarray:
    r"""Fisher separability of right from wrong answers, per target.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Pooled states.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    standardise : bool, default True
        Divide each column by its deviation first. False for principal components, which would lose
        their sizes: all D of them give the J of the states, since a rotation changes neither
        distances nor traces.

    Returns
    -------
    ndarray of shape (K,)
        J; 0 where no column varies, NaN where a target has no right or no wrong answers.

    Raises
    ------
    InputError
        If `Y` is not a matrix with a row for each of `X`.

    Notes
    -----
    .. math:: J = \frac{\lVert\mu_1 - \mu_0\rVert^2}{\mathrm{tr}\,\Sigma_0 + \mathrm{tr}\,\Sigma_1}

    [P]. Each target's labelled rows alone standardise the columns, constant columns are dropped,
    and covariances are those of the population (ddof 0). J is then unchanged by shifting or
    scaling a column.
    """
    Y = label_matrix(Y, X)
    members = np.hstack([Y == 0, Y == 1]).astype(np.float64)
    total, squares = np.zeros((2, members.shape[1], X.shape[1]))
    for place, block in chunks(X, X[0]):
        total += members[place].T @ block
        squares += members[place].T @ np.square(block, out=block)
    count = members.sum(axis=0).reshape(2, -1, 1)  # wrong and right answers of each target
    mean = total.reshape(2, -1, X.shape[1]) / np.maximum(count, 1)
    variance = squares.reshape(mean.shape) / np.maximum(count, 1) - mean**2
    variance = np.maximum(variance, 0.0)
    distance, within = (mean[1] - mean[0]) ** 2, variance.sum(axis=0)
    if standardise:
        share = count / np.maximum(count.sum(axis=0), 1)
        every = (share * variance).sum(axis=0) + share.prod(axis=0) * distance
        weight = 1 / spread(every, largest_sizes(X)) ** 2  # 0 for a constant column
        distance, within = distance * weight, within * weight
    top, bottom = distance.sum(axis=1), within.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        J = np.where(top == 0, 0.0, top / bottom)
    return np.where((count > 0).all(axis=(0, 2)), J, np.nan)


def whitened_separability(features: np.ndarray, Y: np.ndarray) -> np.ndarray:
    r"""Fisher's criterion along its best direction: a separability comparable between states.

    Parameters
    ----------
    features : ndarray of shape (N, d)
        Principal components; as many of each of the states that are compared.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.

    Returns
    -------
    ndarray of shape (K,)
        Squared distance of right and wrong answers in within-class standard deviations, free of
        bias (so that it may fall below 0 where nothing separates them). Zero for constant
        states, NaN where a class is empty or no more than d + 3 rows are labelled.

    Notes
    -----
    .. math:: J_{\mathrm{w}} = \frac{n-d-3}{n-2}\, \delta^\top \Sigma^{-1} \delta
        - d\left(\frac1{n_0} + \frac1{n_1}\right), \qquad \delta = \mu_1 - \mu_0

    with the pooled within-class covariance :math:`\Sigma` (divisor n - 2).

    J divides by the sum of *all* variances. Where few directions hold most of the variance, J is
    large if answers differ along one of these and small if they differ anywhere else, however
    clearly. In states of another spectrum the same answers get another J, so that J ranks spectra
    as much as layers; without any signal its standard deviation still depends on the spectrum:
    :math:`(1/n_0 + 1/n_1) / \sqrt{2 d_{\mathrm{eff}}}`. Weighing every direction by its own spread
    removes it: :math:`J_{\mathrm{w}}` is unchanged by any invertible linear map, and for Gaussian
    classes of one covariance the best linear head has the AUC
    :math:`\Phi(\sqrt{J_{\mathrm{w}} / 2})`. Its price is d estimated directions; the two
    corrections, those of the unbiased Mahalanobis distance, remove their optimism on average.
    """
    Y = label_matrix(Y, features)
    result = np.full(Y.shape[1], np.nan)
    for k, labels in enumerate(Y.T):
        groups = [features[labels == value] for value in (0, 1)]
        n_wrong, n_right = map(len, groups)
        n, d = n_wrong + n_right, features.shape[1]
        if min(n_wrong, n_right) == 0 or n <= d + 3:
            continue
        wrong, right = (group - group.mean(axis=0) for group in groups)
        within = (wrong.T @ wrong + right.T @ right) / (n - 2)
        difference = groups[1].mean(axis=0) - groups[0].mean(axis=0)
        values, vectors = np.linalg.eigh(within)
        used = values > 1e-12 * max(values[-1], np.finfo(np.float64).tiny)
        squared = np.sum((difference @ vectors[:, used]) ** 2 / values[used])
        d = int(used.sum())
        result[k] = (n - d - 3) / (n - 2) * squared - d * (1 / n_wrong + 1 / n_right)
    return result


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

    [S]. The right-hand side needs no eigenvalues. Constant columns are dropped.
    """
    rows = moments(X)
    varying = np.isfinite(rows.scale)
    if not varying.any():
        return float("nan")
    scatter = rows.scatter[np.ix_(varying, varying)]
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
