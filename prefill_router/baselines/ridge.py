"""Ridge regression of right answers: what targets share, and what sets them apart.

A label is split into its query's mean over targets, its easiness, and what is left, the target's
deviation: y_ik = m_i + d_ik. Routing depends on deviations alone, and they are much the fainter
signal, so that a penalty that suits m lets d overfit. Both are regressed on the same features by
least squares, each with its own penalty; one decomposition serves every penalty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics.pairwise import euclidean_distances

from prefill_router.baselines import masked_accuracy
from prefill_router.errors import InputError
from prefill_router.labels import label_matrix


def completed(Y: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Fill missing labels by what their target and their query are like, on their own.

    Parameters
    ----------
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    accuracy : ndarray of shape (K,)
        Of each target, on training rows.

    Returns
    -------
    ndarray of shape (N, K)
        A missing label becomes the target's accuracy plus the mean, over the query's labels, of
        label minus accuracy: of such a query it deviates as it does on average. A query without
        any label gets the accuracies.
    """
    residuals = Y - accuracy
    known = ~np.isnan(residuals)
    shift = np.where(known, residuals, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(known, Y, accuracy + shift[:, None])


class RidgePath(BaseEstimator):
    """Ridge regressions with every penalty of a list, from one decomposition.

    Parameters
    ----------
    penalties : sequence of float
        Penalty on the squared weights, as a multiple of the features' mean square times N. The
        features are centred and the intercept is not penalised.

    Attributes
    ----------
    x_mean_, y_mean_ : ndarrays of shapes (D,) and (M,)
        Weighted means of the training rows.
    coef_ : ndarray of shape (P, D, M)
        By penalty.
    """

    def __init__(self, penalties: Sequence[float]):
        self.penalties = penalties

    def fit(self, X: np.ndarray, Y: np.ndarray, weights: np.ndarray | None = None) -> RidgePath:
        """Fit to features `X` (N, D) and values `Y` (N, M), rows counted by `weights` (N,).

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, a penalty is not positive, or a
            weight is below 0 or none is above it.
        """
        X, Y = np.asarray(X, dtype=np.float64), label_matrix(Y, len(X))
        weights = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=np.float64)
        if not (np.min(self.penalties) > 0 and np.min(weights) >= 0 and weights.sum() > 0):
            raise InputError("Penalties must be positive, weights at least 0 and some above 0.")
        self.x_mean_ = np.average(X, axis=0, weights=weights)
        self.y_mean_ = np.average(Y, axis=0, weights=weights)
        root = np.sqrt(weights)[:, None]
        x, y = root * (X - self.x_mean_), root * (Y - self.y_mean_)
        scatter = x.T @ x
        unit = np.trace(scatter) / len(scatter)
        values, vectors = linalg.eigh(scatter, overwrite_a=True)
        projected = vectors.T @ (x.T @ y)
        floor = np.finfo(float).tiny  # no feature varies: all weights are then 0
        self.coef_ = np.stack(
            [
                vectors @ (projected / (np.maximum(values, 0) + penalty * unit + floor)[:, None])
                for penalty in self.penalties
            ]
        )
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return values (P, n, M) of features `X` (n, D), by penalty."""
        return (np.asarray(X, dtype=np.float64) - self.x_mean_) @ self.coef_ + self.y_mean_


class KernelFeatures(TransformerMixin, BaseEstimator):
    """Features whose products approximate a Gaussian kernel, from a sample of the rows (Nyström).

    Parameters
    ----------
    width : float, default 1.0
        The kernel is exp(-d^2 / (2 w^2)), w being `width` times the median distance between rows
        of the sample.
    n_landmarks : int, default 1000
        Rows sampled, at most all.
    random_state : int, default 0

    Attributes
    ----------
    landmarks_ : ndarray of shape (L, D)
    scale_ : float
        w.
    rotation_ : ndarray of shape (L, R)
        Inverse root of the landmarks' kernel matrix, without its vanishing part.

    References
    ----------
    Williams and Seeger, "Using the Nyström method to speed up kernel machines", 2001.
    """

    def __init__(self, width: float = 1.0, n_landmarks: int = 1000, random_state: int = 0):
        self.width = width
        self.n_landmarks = n_landmarks
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> KernelFeatures:
        """Draw landmarks from `X` (N, D)."""
        X = np.asarray(X, dtype=np.float64)
        rng = np.random.default_rng(self.random_state)
        self.landmarks_ = X[rng.permutation(len(X))[: self.n_landmarks]]
        squares = euclidean_distances(self.landmarks_, squared=True)
        off_diagonal = squares[~np.eye(len(squares), dtype=bool)]
        median = np.sqrt(np.median(off_diagonal)) if off_diagonal.size else 0.0
        self.scale_ = self.width * (median or 1.0)
        values, vectors = linalg.eigh(np.exp(-squares / (2 * self.scale_**2)))
        kept = values > 1e-8 * values[-1]
        self.rotation_ = vectors[:, kept] / np.sqrt(values[kept])
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return features (n, R) of `X` (n, D)."""
        squares = euclidean_distances(np.asarray(X, np.float64), self.landmarks_, squared=True)
        return np.exp(-squares / (2 * self.scale_**2)) @ self.rotation_


def split_labels(Y: np.ndarray) -> np.ndarray:
    """Return each query's mean label and the targets' deviations from it, (N, 1 + K)."""
    filled = completed(Y, masked_accuracy(Y))
    mean = filled.mean(axis=1, keepdims=True)
    return np.hstack([mean, filled - mean])


def join_parts(mean: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return P(correct), (N, K), of predicted means (N,) and deviations (N, K).

    Where a sum leaves [0, 1] its whole row is moved back, so that differences between targets stay;
    rows that span more than 1 are cut.
    """
    p = mean[:, None] + deviations
    p -= np.maximum(p.max(axis=1, keepdims=True) - 1, 0)
    p -= np.minimum(p.min(axis=1, keepdims=True), 0)
    return p.clip(0, 1)
