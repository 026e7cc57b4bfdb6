"""Standardised columns and their principal components: one decomposition serves every dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

from prefill_router.probes.statistics import Moments, chunks, column_scale, moments, pool


@dataclass(frozen=True)
class Decomposition:
    """A fitted standardisation followed by a rotation onto principal components.

    Attributes
    ----------
    mean, scale : ndarray of shape (D,)
        Of the rows it was fitted on; `scale` is infinite for a constant column.
    components : ndarray of shape (D, d)
        Orthonormal columns, by falling variance; the largest entry of each is positive.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray

    @property
    def constant(self) -> bool:
        """Whether no column varied."""
        return bool(np.isinf(self.scale).all())

    def transform(self, states: np.ndarray) -> np.ndarray:
        """Return the principal components of `states` (n, D), an array of shape (n, d)."""
        projection = self.components / self.scale[:, None]
        features = np.empty((len(states), projection.shape[1]))
        for place, block in chunks(states, self.mean):
            np.matmul(block, projection, out=features[place])
        return features


def decompose(states: np.ndarray, dimension: int, summed: Moments | None = None) -> Decomposition:
    """Fit standardisation and principal components (StandardScaler and PCA in one) [T].

    The first d components of a larger decomposition are the decomposition into d, so the largest
    dimension wanted serves all smaller ones.

    Parameters
    ----------
    states : ndarray of shape (N, D)
        Training rows only.
    dimension : int
        Components wanted; at most min(N, D) are kept.
    summed : Moments, optional
        Those of `states`, where they are at hand.

    Returns
    -------
    Decomposition
    """
    n, width = states.shape
    if n >= width:
        return principal_components(summed or moments(states), dimension)
    mean, scale = column_scale(states)
    vectors = linalg.svd((states - mean) / scale, full_matrices=False)[2].T
    return Decomposition(mean, scale, _fix_signs(vectors[:, :dimension]))


def decompose_folds(
    states: np.ndarray, folds: Sequence[np.ndarray], dimension: int
) -> list[Decomposition]:
    """Decompose the training rows of each fold of a cross-validation: all rows but the fold's own.

    Each row enters one scatter matrix, its fold's, and a fold's training rows are the pool of the
    others: all folds together cost as many products as one decomposition of all rows.

    Parameters
    ----------
    states : ndarray of shape (N, D)
    folds : sequence of int arrays
        Rows held out by each fold; together all rows, each once.
    dimension : int
        Components wanted; at most those that `decompose` would give are kept.

    Returns
    -------
    list of Decomposition
        One a fold. Nothing of a fold's own rows enters its decomposition, not even by rounding.
    """
    n, width = states.shape
    if n - max(map(len, folds)) < width:  # the scatter matrix would be larger than the states
        return [decompose(np.delete(states, fold, axis=0), dimension) for fold in folds]
    sums = [moments(states[fold]) for fold in folds]
    return [
        principal_components(pool([*sums[:f], *sums[f + 1 :]]), dimension)
        for f in range(len(folds))
    ]


def principal_components(rows: Moments, dimension: int) -> Decomposition:
    """Decompose rows into the leading eigenvectors of their correlation matrix, at most D."""
    scale = rows.scale
    correlation = rows.scatter / scale
    correlation /= scale[:, None]
    vectors = _leading_eigenvectors(correlation, min(dimension, len(scale)))
    return Decomposition(rows.mean, scale, _fix_signs(vectors[:, ::-1]))


def _leading_eigenvectors(matrix: np.ndarray, count: int) -> np.ndarray:
    """Return the last `count` eigenvectors of a symmetric matrix (D, D), which is overwritten.

    As `scipy.linalg.eigh` does, but for the tridiagonal problem: LAPACK's driver bisects where
    only some vectors are wanted, and relatively robust representations take less time.
    """
    width = len(matrix)
    if width == 1:
        return np.ones((1, 1))
    work = 64 * width  # LAPACK's largest block
    reduced, diagonal, off, tau, _ = lapack.dsytrd(matrix.T, lower=1, lwork=work, overwrite_a=1)
    last = (width - count, width - 1)
    _, vectors = linalg.eigh_tridiagonal(
        diagonal, off, select="i", select_range=last, lapack_driver="stemr"
    )
    vectors[1:] = lapack.dormqr("L", "N", reduced[1:, :-1], tau, vectors[1:], lwork=work)[0]
    return vectors


def _fix_signs(vectors: np.ndarray) -> np.ndarray:
    """Make the largest entry of each column positive."""
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(np.take_along_axis(vectors, largest[None], axis=0) < 0, -1.0, 1.0)
    return np.ascontiguousarray(vectors * signs)
