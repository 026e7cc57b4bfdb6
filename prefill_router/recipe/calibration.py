"""Calibrated probabilities: a monotone map for each target, fitted on validation queries.

The families are nested, all linear in the logarithms of p and 1 - p, and one of isotonic steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

from prefill_router.errors import InputError
from prefill_router.evaluation.significance import standard_error

FAMILIES = ("identity", "temperature", "platt", "beta", "isotonic")
IDENTITY = (1.0, 1.0, 0.0)
ISOTONIC = "isotonic"
ISOTONIC_ROWS = 1000  # labels from which steps are tried: fewer, and they follow noise
FOLDS = 5
EDGE = 1e-6  # probabilities nearer to 0 or 1 are taken as this near


@dataclass(frozen=True)
class Calibration:
    """One monotone map from P(correct) to a calibrated P(correct) for each of K targets.

    Attributes
    ----------
    families : list of str
        The family of each target's map, out of `FAMILIES`.
    coefficients : ndarray of shape (K, 3)
        a, b, c of sigmoid(a ln p - b ln(1 - p) + c). The identity has 1, 1, 0; a temperature a = b
        and c = 0; Platt's map a = b; the beta map all three. Both slopes are at least 0.
    steps : dict of int to ndarray of shape (2, M)
        Of isotonic targets: values of p, rising, and what they become; straight lines between.
    """

    families: list[str]
    coefficients: np.ndarray
    steps: dict[int, np.ndarray] = field(default_factory=dict)

    def apply(self, p: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (N, K) of predicted ones, float64."""
        a, b, c = self.coefficients.T
        p = np.clip(p, EDGE, 1 - EDGE)
        result = expit(a * np.log(p) - b * np.log1p(-p) + c)
        for k, (before, after) in self.steps.items():
            result[:, k] = np.interp(p[:, k], before, after)
        return result


def uncalibrated(n_targets: int) -> Calibration:
    """Return the calibration that leaves the probabilities of K targets as they are."""
    return Calibration(["identity"] * n_targets, np.tile(IDENTITY, (n_targets, 1)))


def fit_calibration(
    p: np.ndarray,
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    families: Sequence[str] = FAMILIES,
    seed: int = 0,
) -> Calibration:
    """Fit the family that cross-fitting on these rows prefers, for each target.

    Parameters
    ----------
    p : ndarray of shape (N, K)
        Predicted P(correct) of validation queries.
    correct : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    groups : ndarray of shape (N,), optional
        Queries that share a value are on the same side of every fold.
    families : sequence of str, default all
        What to choose among, the simplest first. Isotonic steps are tried from `ISOTONIC_ROWS`
        labels on.
    seed : int, default 0
        Deals the groups into five folds.

    Returns
    -------
    Calibration
        Of each target the first family whose Brier score, on rows that its map was not fitted to,
        is no more than a standard error above the least. A target with fewer than five labelled
        groups, or whose labels are all alike, keeps its probabilities.

    Raises
    ------
    InputError
        If shapes disagree, a probability is missing or a family is unknown.

    References
    ----------
    Platt, "Probabilistic outputs for support vector machines", 1999; Guo et al., "On calibration of
    modern neural networks", 2017 (temperature); Kull, Silva Filho and Flach, "Beta calibration",
    2017; Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability
    estimates", 2002 (isotonic); Breiman et al., "Classification and regression trees", 1984 (the
    rule of one standard error).
    """
    p, correct = np.asarray(p, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if p.ndim != 2 or p.shape != correct.shape:
        raise InputError(f"Probabilities {p.shape} and labels {correct.shape} must be (N, K) both.")
    if not np.isfinite(p).all():
        raise InputError("A predicted probability is missing; predict every query for each target.")
    if unknown := sorted(set(families) - set(FAMILIES)):
        raise InputError(f"Unknown calibration {unknown[0]!r}; known: {', '.join(FAMILIES)}.")
    groups = np.arange(len(p)) if groups is None else np.asarray(groups)
    chosen, coefficients, steps = [], np.tile(IDENTITY, (p.shape[1], 1)), {}
    for k in range(p.shape[1]):
        seen = ~np.isnan(correct[:, k])
        family = _choose(p[seen, k], correct[seen, k], groups[seen], families, seed)
        chosen.append(family)
        if family == ISOTONIC:
            steps[k] = _isotonic(p[seen, k], correct[seen, k])
        else:
            coefficients[k] = _fit(family, p[seen, k], correct[seen, k])
    return Calibration(chosen, coefficients, steps)


def _choose(
    p: np.ndarray, y: np.ndarray, groups: np.ndarray, families: Sequence[str], seed: int
) -> str:
    """Return the first family whose cross-fitted Brier score is one standard error from the best's.

    The error is that of the paired difference, over groups.
    """
    if len(np.unique(groups)) < FOLDS or len(np.unique(y)) < 2:
        return "identity"
    tried = [f for f in families if f != ISOTONIC or len(y) >= ISOTONIC_ROWS]
    squares = np.zeros((len(tried), len(y)))
    for fit, rest in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(p, groups=groups):
        for place, family in enumerate(tried):
            if family == ISOTONIC:
                fitted = np.interp(p[rest], *_isotonic(p[fit], y[fit]))
            else:
                map_ = Calibration([family], _fit(family, p[fit], y[fit])[None])
                fitted = map_.apply(p[rest, None])[:, 0]
            squares[place, rest] = (fitted - y[rest]) ** 2
    above = squares - squares[squares.mean(axis=1).argmin()]
    near = [excess.mean() <= standard_error(excess, groups) for excess in above]
    return tried[near.index(True)]


def _fit(family: str, p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a, b, c by maximum likelihood within a family."""
    if family == "identity" or len(np.unique(y)) < 2:
        return np.array(IDENTITY)
    p = np.clip(p, EDGE, 1 - EDGE)
    logs = np.column_stack([np.log(p), -np.log1p(-p)])
    tied = family != "beta"
    design = logs.sum(axis=1, keepdims=True) if tied else logs
    if family != "temperature":
        design = np.column_stack([design, np.ones(len(p))])
    n_slopes = 1 if tied else 2
    bounds = [(0.0, None)] * n_slopes + [(None, None)] * (design.shape[1] - n_slopes)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        z = design @ theta
        return np.mean(np.logaddexp(0, z) - y * z), design.T @ (expit(z) - y) / len(y)

    start = np.r_[np.ones(n_slopes), np.zeros(design.shape[1] - n_slopes)]
    theta = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    slopes = np.repeat(theta[:1], 2) if tied else theta[:2]
    return np.r_[slopes, theta[n_slopes:] if design.shape[1] > n_slopes else 0.0]


def _isotonic(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return where isotonic regression bends, (2, M)."""
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, y)
    return np.stack([model.X_thresholds_, model.y_thresholds_])
