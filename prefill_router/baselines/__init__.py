"""What a router must beat: estimators that know less, or that use what they know more simply.

Each has ``fit(X, Y)`` and ``predict_proba(X)``, which returns P(correct) of shape (n, K). Y has 1
for a right answer, 0 for a wrong one and NaN where a target was never asked; those say nothing.
A target without any label is given probability one half. ``fit`` raises InputError if Y is not a
matrix with a row for each of X.
"""

from __future__ import annotations

import numpy as np


def masked_accuracy(Y: np.ndarray) -> np.ndarray:
    """Return the share of right answers among the labelled ones, (K,); one half without any."""
    known = (~np.isnan(Y)).sum(axis=0)
    return np.where(known > 0, np.nansum(Y, axis=0) / np.maximum(known, 1), 0.5)


def base_rate(Y: np.ndarray) -> np.ndarray:
    """Return (right + 1) / (labelled + 2) of each target, (K,), which is never 0 or 1."""
    return (np.nansum(Y, axis=0) + 1) / ((~np.isnan(Y)).sum(axis=0) + 2)


def smoothed_accuracy(
    Y: np.ndarray, codes: np.ndarray, n_codes: int, strength: float
) -> np.ndarray:
    """Accuracy of each target within each class of queries, drawn towards its accuracy overall.

    Parameters
    ----------
    Y : ndarray of shape (N, K)
    codes : ndarray of int, shape (N,)
        Each query's class.
    n_codes : int
    strength : float
        Labels that the overall accuracy counts as.

    Returns
    -------
    ndarray of shape (n_codes, K)
    """
    right, known = np.zeros((2, n_codes, Y.shape[1]))
    np.add.at(right, codes, np.nan_to_num(Y))
    np.add.at(known, codes, ~np.isnan(Y))
    return (right + strength * masked_accuracy(Y)) / (known + strength)
