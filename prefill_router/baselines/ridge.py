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
from sklearn.base import BaseEstimator

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
        Means of the training rows.
    coef_ : ndarray of shape (P, D, M)
        By penalty.
    """

    def __init__(self, penalties: Sequence[float]):
        self.penalties = penalties

    def fit(self, X: np.ndarray, Y: np.ndarray) -> RidgePath:
        """Fit to features `X` (N, D) and values `Y` (N, M).

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, or a penalty is not positive.
        """
        X, Y = np.asarray(X, dtype=np.float64), label_matrix(Y, len(X))
        if not np.min(self.penalties) > 0:
            raise InputError(f"penalties {self.penalties} must all be positive.")
        self.x_mean_, self.y_mean_ = X.mean(axis=0), Y.mean(axis=0)
        x, y = X - self.x_mean_, Y - self.y_mean_
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
