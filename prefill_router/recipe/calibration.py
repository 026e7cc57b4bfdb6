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

from prefill_router.evaluation.bootstrap import standard_error

IDENTITY, ISOTONIC = "identity", "isotonic"
LINEAR = {
    "temperature": ((1, 1, 0),),
    "platt": ((1, 1, 0), (0, 0, 1)),
    "beta": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
"""Directions in which a family may move a, b and c; see `Calibration`."""
FAMILIES = (IDENTITY, *LINEAR, ISOTONIC)
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

    References
    ----------
    Platt, "Probabilistic outputs for support vector machines", 1999; Guo et al., "On calibration of
    modern neural networks", 2017 (temperature); Kull, Silva Filho and Flach, "Beta calibration",
    2017; Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability
    estimates", 2002 (isotonic); Breiman et al., "Classification and regression trees", 1984 (the
    rule of one standard error).
    """
    groups = np.arange(len(p)) if groups is None else groups
    known = [(q, y, ~np.isnan(y)) for q, y in zip(p.T, correct.T, strict=True)]
    chosen = [_choose(q[seen], y[seen], groups[seen], families, seed) for q, y, seen in known]
    return _fit_each(chosen, p, correct)


def cross_fit(
    families: Sequence[str], p: np.ndarray, correct: np.ndarray, groups: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Calibrate rows by maps that were not fitted to them.

    On the rows whose own labels made a map, probabilities are better than elsewhere: a threshold
    chosen there would not hold.

    Parameters
    ----------
    families : sequence of str, of length K
        Of each target's map, as `fit_calibration` chose them.
    p, correct, groups, seed
        As for `fit_calibration`.

    Returns
    -------
    ndarray of shape (N, K)
        P(correct), in each of five folds by maps fitted to the other four; with fewer than five
        groups, for which no map is chosen, `p`.
    """
    held = p.copy()
    if len(np.unique(groups)) >= FOLDS:
        for fit, rest in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(p, groups=groups):
            held[rest] = _fit_each(families, p[fit], correct[fit]).apply(p[rest])
    return held


def _choose(
    p: np.ndarray, y: np.ndarray, groups: np.ndarray, families: Sequence[str], seed: int
) -> str:
    """Return the first family whose cross-fitted Brier score is one standard error from the best's.

    The error is that of the paired difference, over groups.
    """
    if len(np.unique(groups)) < FOLDS or len(np.unique(y)) < 2:
        return IDENTITY
    tried = [f for f in families if f != ISOTONIC or len(y) >= ISOTONIC_ROWS]
    of_each = [np.repeat(values[:, None], len(tried), axis=1) for values in (p, y)]
    squares = (cross_fit(tried, *of_each, groups, seed) - y[:, None]).T ** 2
    above = squares - squares[squares.mean(axis=1).argmin()]
    near = [excess.mean() <= standard_error(excess, groups) for excess in above]
    return tried[near.index(True)]


def _fit_each(families: Sequence[str], p: np.ndarray, correct: np.ndarray) -> Calibration:
    """Fit a family to each target."""
    targets = zip(families, p.T, correct.T, ~np.isnan(correct.T), strict=True)
    fitted = [_fit(family, q[seen], y[seen]) for family, q, y, seen in targets]
    coefficients, steps = zip(*fitted, strict=True)
    bends = {k: values for k, values in enumerate(steps) if values is not None}
    return Calibration(list(families), np.array(coefficients), bends)


def _fit(family: str, p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a, b, c by maximum likelihood within a family; and where isotonic steps bend."""
    identity = np.array([1.0, 1.0, 0.0])
    if family == ISOTONIC:
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, y)
        return identity, np.stack([model.X_thresholds_, model.y_thresholds_])
    if family == IDENTITY or len(np.unique(y)) < 2:
        return identity, None
    directions = np.array(LINEAR[family], dtype=np.float64)
    p = np.clip(p, EDGE, 1 - EDGE)
    design = np.column_stack([np.log(p), -np.log1p(-p), np.ones(len(p))]) @ directions.T

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        z = design @ theta
        return np.mean(np.logaddexp(0, z) - y * z), design.T @ (expit(z) - y) / len(y)

    start = directions[:, :2].max(axis=1)  # 1 for slopes, 0 for the constant
    bounds = [(0.0 if is_slope else None, None) for is_slope in start]
    theta = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return theta @ directions, None
