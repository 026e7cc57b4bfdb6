"""Metrics of probabilities and of choices; labels that are missing (NaN) are left out, never wrong.

Metrics of probabilities are given per target; `macro` averages them over targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefill_router.errors import InputError

N_BINS = 15


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, NaN where the denominator is not above 0.

    Parameters
    ----------
    numerator, denominator : floats or arrays that broadcast

    Returns
    -------
    float64 array of their common shape, or a float where both are
    """
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    undefined = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)[()]


def auc(p: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return each target's area under the ROC curve, over the rows labelled for it; ties half.

    Parameters
    ----------
    p : (N, K) array
        Predicted P(correct).
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked.

    Returns
    -------
    (K,) array
        NaN for a target that is always right or always wrong.
    """

    def one(scores: np.ndarray, labels: np.ndarray) -> float:
        right, wrong, below, not_above = rank_pairs(scores, labels)
        return ratio((below.sum() + not_above.sum()) / 2, len(right) * len(wrong))

    return _per_target(one, p, correct)


def rank_pairs(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what an AUC counts: pairs of a right and a wrong answer that the scores order.

    Parameters
    ----------
    scores, labels : (N,) arrays
        Labels other than 0 and 1 are left out.

    Returns
    -------
    right, wrong : int arrays
        The rows of either label, those of wrong answers by rising score.
    below, not_above : int arrays
        For each right answer how many wrong ones have a lower score, and no higher one.
    """
    wrong = np.flatnonzero(labels == 0)
    wrong = wrong[np.argsort(scores[wrong])]
    right = np.flatnonzero(labels == 1)
    ends = (np.searchsorted(scores[wrong], scores[right], side=side) for side in ("left", "right"))
    return right, wrong, *ends


def brier(p: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return each target's Brier score, the mean of (p - correct)^2, (K,); see `auc`."""
    return _per_target(lambda s, y: np.mean((s - y) ** 2) if len(y) else np.nan, p, correct)


def pairwise_brier(p: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return each query's Brier score of differences between targets, (N,).

    Parameters
    ----------
    p, correct : (N, K) arrays
        As for `auc`.

    Returns
    -------
    (N,) array
        The mean over pairs of targets labelled for it of ((p_j - p_k) - (y_j - y_k))^2; NaN with
        fewer than two labels. What all targets share cancels, as it does in routing: a proper
        score of just what decides which target is asked.
    """
    p, correct = checked(p, correct)
    residuals = np.where(np.isnan(correct), np.nan, p - correct)
    squares = np.nansum((residuals - macro(residuals)[:, None]) ** 2, axis=1)
    return ratio(2 * squares, (~np.isnan(residuals)).sum(axis=1) - 1)


def expected_calibration_error(
    p: np.ndarray, correct: np.ndarray, n_bins: int = N_BINS
) -> np.ndarray:
    """Return each target's expected calibration error over bins of equal mass, (K,); see `auc`."""

    def one(scores: np.ndarray, labels: np.ndarray) -> float:
        curve = reliability_curve(scores, labels, n_bins)
        gap = np.abs(curve.predicted - curve.observed)
        return np.average(gap, weights=curve.count) if len(labels) else np.nan

    return _per_target(one, p, correct)


def chance_calibration_error(
    p: np.ndarray, correct: np.ndarray, n_bins: int = N_BINS
) -> np.ndarray:
    r"""Return the ECE that perfect probabilities would show on as many rows, (K,); see `auc`.

    Notes
    -----
    An absolute value of a mean that is off by chance alone is above 0. Of independent answers
    with the probabilities p that a bin b of the N rows holds, about

    .. math:: \frac{1}{N} \sum_b \sqrt{\frac{2}{\pi} \sum_{i \in b} p_i (1 - p_i)} .
    """

    def one(scores: np.ndarray, labels: np.ndarray) -> float:
        variances = np.bincount(equal_mass_bins(scores, n_bins), weights=scores * (1 - scores))
        return ratio(np.sqrt(2 / np.pi * variances).sum(), len(labels))

    return _per_target(one, p, correct)


def macro(values: np.ndarray) -> np.ndarray:
    """Return the mean over the targets for which a metric is defined, NaN where for none.

    Targets, or whatever else is averaged, are on the last axis: (..., K) becomes (...).
    """
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1)
    return ratio(total, count)


@dataclass(frozen=True)
class ReliabilityCurve:
    """Mean prediction and share of right answers per bin; arrays of one length, by prediction."""

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def reliability_curve(p: np.ndarray, correct: np.ndarray, n_bins: int = N_BINS) -> ReliabilityCurve:
    """Compare predictions with outcomes, in bins that hold equally many of them.

    Parameters
    ----------
    p, correct : arrays of one shape
        Predicted P(correct) and outcomes; cells with NaN in `correct` are left out.
    n_bins : int, default 15
        Number of bins; fewer are returned where ties or few cells leave some empty.

    Returns
    -------
    ReliabilityCurve
    """
    p, correct = checked(p, correct)
    labelled = ~np.isnan(correct)
    p, correct = p[labelled], correct[labelled]
    bins = equal_mass_bins(p, n_bins)
    count = np.bincount(bins, minlength=n_bins)
    used = count > 0
    predicted, observed = (
        np.bincount(bins, weights=values, minlength=n_bins)[used] / count[used]
        for values in (p, correct)
    )
    return ReliabilityCurve(predicted, observed, count[used])


def equal_mass_bins(p: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Return the bin of each prediction, (N,) int.

    Equal predictions share a bin, so that a constant prediction is judged as the one number it is.
    """
    first = np.searchsorted(np.sort(p), p, side="left")
    return first * n_bins // max(len(p), 1)


@dataclass(frozen=True)
class Zones:
    """Shares of the complete rows by how many targets are right; routing matters in the middle."""

    all_right: float
    some_right: float
    all_wrong: float
    n: int


def zones(correct: np.ndarray) -> Zones:
    """Return the agreement zones of a label matrix (N, K), over rows without missing labels."""
    correct = np.asarray(correct, dtype=np.float64)
    correct = correct[~np.isnan(correct).any(axis=1)]
    n = len(correct)
    any_right, all_right = (ratio(f(correct, axis=1).sum(), n) for f in (np.max, np.min))
    return Zones(all_right, any_right - all_right, 1 - any_right, n)


def agreement(correct: np.ndarray) -> np.ndarray:
    """Return the share of queries on which two targets are both right or both wrong, (K, K).

    Each pair is compared on the rows labelled for both; NaN where there are none.
    """
    correct = np.asarray(correct, dtype=np.float64)
    right, wrong = (correct == 1).astype(float), (correct == 0).astype(float)
    both = (right + wrong).T @ (right + wrong)
    same = right.T @ right + wrong.T @ wrong
    return ratio(same, both)


def gap_closed(router: np.ndarray, best: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Return (A_router - A_best) / (A_oracle - A_best), NaN where there is no headroom.

    Parameters
    ----------
    router, best, oracle : floats or arrays that broadcast
        Accuracies of the router, of the best single target and of the oracle.
    """
    return ratio(np.subtract(router, best), np.subtract(oracle, best))


def cost_saving(router: np.ndarray, dearest: np.ndarray) -> np.ndarray:
    """Return 1 - cost(router) / cost(always the dearest target), NaN where that costs nothing."""
    return 1 - ratio(router, dearest)


def _per_target(metric, p: np.ndarray, correct: np.ndarray) -> np.ndarray:
    p, correct = checked(p, correct)
    labelled = ~np.isnan(correct)
    columns = range(p.shape[1])
    return np.array([metric(p[labelled[:, k], k], correct[labelled[:, k], k]) for k in columns])


def checked(p: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels as float64, or raise InputError: of one shape, no p NaN."""
    p, correct = np.asarray(p, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if p.shape != correct.shape:
        raise InputError(f"Probabilities {p.shape} and labels {correct.shape} differ in shape.")
    if np.isnan(p).any():
        raise InputError("A predicted probability is NaN; predict every query for every target.")
    return p, correct
