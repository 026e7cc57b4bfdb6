"""First and second moments of states: summed in float64 over chunks of rows, pooled over parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 1024  # rows in float64 at once

# A column whose spread is below what float32 can resolve at its size holds rounding, not signal.
RESOLUTION = 4 * float(np.finfo(np.float32).eps)


def chunks(X: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the places and the float64 values of up to `CHUNK` rows of `X` at a time."""
    for start in range(0, len(X), CHUNK):
        place = slice(start, start + CHUNK)
        yield place, np.asarray(X[place], dtype=np.float64)


def column_scale(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's mean and population standard deviation, infinite where it is constant.

    Dividing a centred constant column by its infinite scale leaves zeros, which is how such
    columns are dropped everywhere without changing a shape.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        At least one row.

    Returns
    -------
    mean : ndarray of shape (D,)
    scale : ndarray of shape (D,)
    """
    origin = _origin(X)
    total, squares, largest = np.zeros((3, X.shape[1]))
    for _, block in chunks(X):
        np.maximum(largest, np.abs(block).max(axis=0), out=largest)
        block = block - origin
        total += block.sum(axis=0)
        squares += np.einsum("ij,ij->j", block, block)
    offset = total / len(X)
    return origin + offset, _spread(squares / len(X) - offset**2, largest)


def _origin(X: np.ndarray) -> np.ndarray:
    """Return the mean of the first chunk, from which deviations are summed.

    That chunk being part of the data, its mean is within sqrt(N / CHUNK) standard deviations of
    the mean of all, so that no digits cancel, however far from zero the states lie.
    """
    return np.mean(X[:CHUNK], axis=0, dtype=np.float64)


def _spread(variance: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return standard deviations, infinite for columns constant at the size of their values."""
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
        return _spread(np.diag(self.scatter) / self.count, self.largest)


def moments(states: np.ndarray) -> Moments:
    """Sum up the rows, at least one, of `states` (N, D) in one pass."""
    width = states.shape[1]
    total, largest = np.zeros((2, width))
    scatter, origin = np.zeros((width, width)), _origin(states)
    for _, block in chunks(states):
        np.maximum(largest, np.abs(block).max(axis=0), out=largest)
        block = block - origin
        total += block.sum(axis=0)
        scatter += block.T @ block
    offset = total / len(states)
    scatter -= len(states) * np.outer(offset, offset)
    return Moments(len(states), origin + offset, scatter, largest)


def pool(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all parts' rows together.

    Only sums are taken, never differences: moments of a cross-validation's training rows that are
    pooled from the other folds' moments keep every digit and owe nothing to the rows held out.
    """
    count = sum(part.count for part in parts)
    mean = sum(part.count * part.mean for part in parts) / count
    scatter = np.zeros_like(parts[0].scatter)
    for part in parts:
        offset = part.mean - mean
        scatter += part.scatter
        scatter += part.count * np.outer(offset, offset)
    return Moments(count, mean, scatter, np.max([part.largest for part in parts], axis=0))
