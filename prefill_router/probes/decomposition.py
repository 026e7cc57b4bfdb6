"""Standardised columns and their principal components, from sums over chunks of rows.

One decomposition serves every dimension; the sums of a cross-validation's folds are pooled, never
subtracted, so that nothing of a fold's own rows enters what is fitted without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from sklearn.utils.extmath import svd_flip

CHUNK = 512  # rows in float64 at once

# A column whose spread is below what float32 can resolve at its size holds rounding, not signal.
RESOLUTION = 4 * float(np.finfo(np.float32).eps)


def chunks(X: np.ndarray, origin: np.ndarray | float = 0.0) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the places and float64 values, less `origin`, of up to `CHUNK` rows of `X` at a time.

    All chunks share one buffer, which may be written to: use each before asking for the next. Sums
    of squares are taken about a row of `X`: no digits cancel, however far from zero it lies.
    """
    origin = np.asarray(origin, dtype=np.float64)  # a difference in float32 would be rounded
    buffer = np.empty((min(CHUNK, len(X)), X.shape[1]))
    for start in range(0, len(X), CHUNK):
        rows = X[start : start + CHUNK]
        block = np.subtract(rows, origin, out=buffer[: len(rows)])
        yield slice(start, start + len(rows)), block


def largest_sizes(X: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each column, (D,)."""
    return np.maximum(X.max(axis=0), -X.min(axis=0)).astype(np.float64)


def is_constant(X: np.ndarray) -> bool:
    """Return whether all rows of `X` (N, D) are the same, up to what float32 can tell."""
    return bool((np.ptp(X, axis=0) <= RESOLUTION * largest_sizes(X)).all())


def spread(variance: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return standard deviations, (D,), infinite where a column is constant at its `largest` size.

    Dividing a centred constant column by its infinite scale leaves zeros, which is how such
    columns are dropped everywhere without changing a shape.
    """
    deviation = np.sqrt(np.maximum(variance, 0.0))
    return np.where(deviation <= RESOLUTION * largest, np.inf, deviation)


@dataclass(frozen=True)
class Moments:
    """What a set of rows adds up to.

    Attributes
    ----------
    count : int
        Rows.
    mean : ndarray of shape (D,)
    scatter : ndarray of shape (D, D)
        Sum over rows of the outer products of their deviations from `mean`.
    largest : ndarray of shape (D,)
        Largest absolute value of each column.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray
    largest: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """Population standard deviation of each column, infinite where it is constant."""
        return spread(np.diag(self.scatter) / self.count, self.largest)


def moments(states: np.ndarray) -> Moments:
    """Sum up the rows, at least one, of `states` (N, D) in one pass."""
    origin, total, scatter = states[0].astype(np.float64), 0.0, 0.0
    for _, block in chunks(states, origin):
        total += block.sum(axis=0)
        scatter += block.T @ block
    offset = total / len(states)
    scatter -= len(states) * np.outer(offset, offset)
    return Moments(len(states), origin + offset, scatter, largest_sizes(states))


def pool(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all parts' rows together.

    Only sums are taken, never differences: moments of a cross-validation's training rows that are
    pooled from the other folds' moments keep every digit and owe nothing to the rows held out.
    """
    count = sum(part.count for part in parts)
    mean = sum(part.count * part.mean for part in parts) / count
    scatter = np.zeros_like(parts[0].scatter)
    for part in parts:
        scatter += part.scatter
        scatter += part.count * np.outer(part.mean - mean, part.mean - mean)
    return Moments(count, mean, scatter, np.max([part.largest for part in parts], axis=0))


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

    def transform(self, states: np.ndarray) -> np.ndarray:
        """Return the principal components of `states` (n, D), an array of shape (n, d)."""
        projection = self.components / self.scale[:, None]
        features = np.empty((len(states), projection.shape[1]))
        for place, block in chunks(states, self.mean):
            np.matmul(block, projection, out=features[place])
        return features


def decompose(states: np.ndarray, dimension: int) -> Decomposition:
    """Fit standardisation and principal components (StandardScaler and PCA in one) [T].

    The first d components of a larger decomposition are the decomposition into d, so the largest
    dimension wanted serves all smaller ones.

    Parameters
    ----------
    states : ndarray of shape (N, D)
        Training rows only.
    dimension : int
        Components wanted; at most min(N, D) are kept.

    Returns
    -------
    Decomposition
    """
    n, width = states.shape
    if n >= width:
        return principal_components(moments(states), dimension)
    mean = states.mean(axis=0, dtype=np.float64)
    centred = states - mean
    scale = spread((centred**2).mean(axis=0), largest_sizes(states))
    vectors = linalg.svd(centred / scale, full_matrices=False)[2].T
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
    rest = (pool(sums[:f] + sums[f + 1 :]) for f in range(len(folds)))
    return [principal_components(rows, dimension) for rows in rest]


def principal_components(rows: Moments, dimension: int) -> Decomposition:
    """Decompose rows into the leading eigenvectors of their correlation matrix, at most D."""
    scale, width = rows.scale, len(rows.mean)
    leading = [max(width - dimension, 0), width - 1]
    correlation = rows.scatter / scale / scale[:, None]
    vectors = linalg.eigh(correlation, subset_by_index=leading, driver="evr")[1]
    return Decomposition(rows.mean, scale, _fix_signs(vectors[:, ::-1]))


def _fix_signs(vectors: np.ndarray) -> np.ndarray:
    """Make the largest entry of each column positive."""
    return np.ascontiguousarray(svd_flip(vectors, None)[0])
