"""Standardised columns and their principal components: one decomposition serves every dimension."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

# A column whose spread is below what float32 can resolve at its size holds rounding, not signal.
RESOLUTION = 4 * float(np.finfo(np.float32).eps)


def column_scale(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's mean and population standard deviation, infinite where it is constant.

    Dividing a centred constant column by its infinite scale leaves zeros, which is how such
    columns are dropped everywhere without changing a shape.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Float64 values.

    Returns
    -------
    mean : ndarray of shape (D,)
    scale : ndarray of shape (D,)
    """
    mean, scale = X.mean(axis=0), X.std(axis=0)
    return mean, np.where(scale <= RESOLUTION * np.abs(X).max(axis=0), np.inf, scale)


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
        return ((np.asarray(states, dtype=np.float64) - self.mean) / self.scale) @ self.components


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
    X = np.asarray(states, dtype=np.float64)
    mean, scale = column_scale(X)
    Z = (X - mean) / scale
    n, width = Z.shape
    kept = min(dimension, n, width)
    if n >= width:
        _, vectors = linalg.eigh(Z.T @ Z, subset_by_index=[width - kept, width - 1])
        vectors = vectors[:, ::-1]
    else:
        vectors = linalg.svd(Z, full_matrices=False)[2][:kept].T
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(np.take_along_axis(vectors, largest[None], axis=0) < 0, -1.0, 1.0)
    return Decomposition(mean, scale, np.ascontiguousarray(vectors * signs))
