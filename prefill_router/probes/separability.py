"""Fisher separability of right from wrong answers, on states, principal components, or whitened."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from prefill_router.errors import InputError
from prefill_router.probes.statistics import chunks, first_mean, largest_sizes, spread


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
    every, wrong, right = _class_moments(X, Y)
    squared = spread(every.variance[0], largest_sizes(X)) ** 2
    share = (right.count / np.maximum(right.count + wrong.count, 1))[:, None]
    variance = share * right.variance + (1 - share) * wrong.variance
    variance += share * (1 - share) * (right.mean - wrong.mean) ** 2
    constant = variance <= 1e-12 * squared
    return _fisher(wrong, right, np.where(constant, 0.0, 1 / np.where(constant, 1.0, variance)))


@dataclass(frozen=True)
class _Class:
    """The rows of one class: how many (K,), their means (K, D) and variances (K, D)."""

    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def _class_moments(X: np.ndarray, Y: np.ndarray) -> tuple[_Class, _Class, _Class]:
    """Sum up all rows (as one target), and the wrong and the right rows of each target.

    Means are relative to the same point for all.
    """
    Y = np.asarray(Y, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != len(X):
        raise InputError(f"Y has shape {Y.shape}; expected ({len(X)}, K), one row for each state.")
    member = np.hstack([np.ones((len(Y), 1)), Y == 0, Y == 1])
    total, squares = np.zeros((2, member.shape[1], X.shape[1]))
    for place, block in chunks(X, first_mean(X)):
        total += member[place].T @ block
        squares += member[place].T @ np.square(block, out=block)
    count = member.sum(axis=0)
    mean = total / np.maximum(count, 1)[:, None]
    variance = np.maximum(squares / np.maximum(count, 1)[:, None] - mean**2, 0.0)
    ends = [0, 1, 1 + Y.shape[1], 1 + 2 * Y.shape[1]]
    parts = [slice(*pair) for pair in pairwise(ends)]
    return tuple(_Class(count[of], mean[of], variance[of]) for of in parts)


def _fisher(wrong: _Class, right: _Class, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """J of each target; `weight` (K, D) multiplies squared columns."""
    top = np.sum((right.mean - wrong.mean) ** 2 * weight, axis=1)
    bottom = np.sum((right.variance + wrong.variance) * weight, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        J = np.where(top == 0, 0.0, top / bottom)
    return np.where((right.count > 0) & (wrong.count > 0), J, np.nan)


def pca_separability(features: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """J of features as they are: of principal components, which lose their sizes if standardised.

    Parameters
    ----------
    features : ndarray of shape (N, d)
        Such as `Decomposition.transform` returns. At d = D their J is that of `separability`, but
        for missing labels, since a rotation changes neither distances nor traces.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.

    Returns
    -------
    ndarray of shape (K,)
        As of `separability`.

    Raises
    ------
    InputError
        As for `separability`.
    """
    _, wrong, right = _class_moments(features, Y)
    return _fisher(wrong, right)


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
    Y = np.asarray(Y, dtype=np.float64)
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
