"""First and second moments of states: summed in float64 over chunks of rows, pooled over parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dsyr, dsyrk

CHUNK = 512  # rows in float64 at once

# A column whose spread is below what float32 can resolve at its size holds rounding, not signal.
RESOLUTION = 4 * float(np.finfo(np.float32).eps)


def chunks(X: np.ndarray, origin: np.ndarray | float = 0.0) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the places and float64 values, less `origin`, of up to `CHUNK` rows of `X` at a time.

    All chunks share one buffer, which may be written to: use each before asking for the next.
    """
    buffer = np.empty((min(CHUNK, len(X)), X.shape[1]))
    for start in range(0, len(X), CHUNK):
        rows = X[start : start + CHUNK]
        block = np.subtract(rows, origin, out=buffer[: len(rows)])
        yield slice(start, start + len(rows)), block


def first_mean(X: np.ndarray) -> np.ndarray:
    """Return the mean of the first chunk, from which deviations are summed.

    That chunk being part of the data, its mean is within sqrt(N / CHUNK) standard deviations of
    the mean of all, so that no digits cancel, however far from zero the states lie.
    """
    return np.mean(X[:CHUNK], axis=0, dtype=np.float64)


def largest_sizes(X: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each column, (D,)."""
    return np.maximum(X.max(axis=0), -X.min(axis=0)).astype(np.float64)


def column_scale(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's mean and population standard deviation, infinite where it is constant.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        At least one row.

    Returns
    -------
    mean : ndarray of shape (D,)
    scale : ndarray of shape (D,)
    """
    origin = first_mean(X)
    total, squares = np.zeros((2, X.shape[1]))
    for _, block in chunks(X, origin):
        total += block.sum(axis=0)
        squares += np.einsum("ij,ij->j", block, block)
    offset = total / len(X)
    return origin + offset, spread(squares / len(X) - offset**2, largest_sizes(X))


def is_constant(X: np.ndarray) -> bool:
    """Return whether all rows of `X` (N, D) are the same, up to what float32 can tell."""
    return bool(np.isinf(column_scale(X)[1]).all())


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
    width, origin = states.shape[1], first_mean(states)
    total = np.zeros(width)
    scatter = np.zeros((width, width), order="F")  # its upper triangle alone, until the end
    for _, block in chunks(states, origin):
        total += block.sum(axis=0)
        scatter = dsyrk(1.0, block.T, beta=1.0, c=scatter, overwrite_c=True)
    offset = total / len(states)
    scatter = dsyr(-len(states), offset, a=scatter, overwrite_a=True)
    for start in range(0, width, 128):  # a block's transpose stays in the cache
        end = start + 128
        scatter[start:end, :start] = scatter[:start, start:end].T
        block = scatter[start:end, start:end]
        block += np.triu(block, 1).T
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
        offset = part.mean - mean
        scatter += part.scatter
        scatter += part.count * np.outer(offset, offset)
    return Moments(count, mean, scatter, np.max([part.largest for part in parts], axis=0))
