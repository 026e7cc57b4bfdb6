"""Logistic regressions of many targets on the same features, each with its own missing labels."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from prefill_router.errors import InputError


def fit_logistic(
    X: np.ndarray, Y: np.ndarray, C: float = 1.0, max_iterations: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    r"""Fit one L2-regularised logistic regression a target by Newton's method.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Features.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked (the row then says nothing about that target).
    C : float, default 1.0
        Inverse strength of the penalty, as in scikit-learn.
    max_iterations : int, default 100
        Newton steps at most; about six are needed.

    Returns
    -------
    coef : ndarray of shape (K, D)
    intercept : ndarray of shape (K,)
        A target whose labels are all alike gets no coefficients and the intercept of its smoothed
        base rate, (right + 1) / (labelled + 2), which is one half where there are no labels.

    Notes
    -----
    Minimises :math:`\tfrac12\lVert w\rVert^2 + C\sum_i \log(1 + e^{-z_i(x_i w + b)})` with z = 1
    for right and -1 for wrong answers. The intercept is not penalised. A step is halved until
    the objective falls enough, so the iteration cannot diverge. The steps of all targets are
    solved for with the targets' own Hessians.
    """
    X, Y = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        raise InputError(f"X {X.shape} and Y {Y.shape} must be matrices with as many rows.")
    if not C > 0:
        raise InputError(f"C is {C}; it must be positive.")
    theta = np.zeros((Y.shape[1], X.shape[1] + 1))
    for mask in np.unique(~np.isnan(Y), axis=1).T:
        # Targets with the same missing labels share the rows, most often all of them.
        same = np.flatnonzero((~np.isnan(Y) == mask[:, None]).all(axis=0))
        theta[same] = _newton(X[mask], Y[np.ix_(mask, same)], C, max_iterations)
    return theta[:, :-1].copy(), theta[:, -1].copy()


def predict_logistic(X: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Return the probabilities, (N, K), that the coefficients give the features `X`, (N, D)."""
    return expit(np.asarray(X, dtype=np.float64) @ coef.T + intercept)


def _newton(X: np.ndarray, Y: np.ndarray, C: float, max_iterations: int) -> np.ndarray:
    """Damped Newton for complete labels Y (n, K); returns coefficients then intercept (K, D+1)."""
    design = np.hstack([X, np.ones((len(X), 1))])
    ridge = np.append(np.ones(X.shape[1]), 0.0) / C
    rate = (Y.sum(axis=0) + 1) / (len(Y) + 2)
    theta = np.zeros((Y.shape[1], design.shape[1]))
    theta[:, -1] = logit(rate)
    active = np.flatnonzero((Y.min(axis=0, initial=1) == 0) & (Y.max(axis=0, initial=0) == 1))
    if active.size == 0:
        return theta
    for _ in range(max_iterations):
        current, labels = theta[active], Y[:, active]
        scores = design @ current.T
        p = expit(scores)
        gradient = (p - labels).T @ design + ridge * current
        step = _newton_step(design, p * (1 - p), ridge, gradient)
        decrement = np.sum(gradient * step, axis=1)
        shifts = design @ step.T
        before = _objective(scores, labels, current, ridge)
        size = np.ones(active.size)
        for _ in range(30):
            proposal = current - size[:, None] * step
            after = _objective(scores - size * shifts, labels, proposal, ridge)
            failing = after > before - 1e-4 * size * decrement + 1e-12 * np.abs(before)
            if not failing.any():
                break
            size[failing] /= 2
        theta[active] = proposal
        active = active[decrement > 1e-9 * len(Y)]
        if active.size == 0:
            break
    return theta


def _newton_step(
    design: np.ndarray, curvature: np.ndarray, ridge: np.ndarray, gradient: np.ndarray
) -> np.ndarray:
    """Solve each target's Hessian for its gradient (K, D+1)."""
    step = np.empty_like(gradient)
    for k, weights in enumerate(curvature.T):
        hessian = (design * weights[:, None]).T @ design
        hessian[np.diag_indices_from(hessian)] += ridge + 1e-12 * np.trace(hessian)
        step[k] = np.linalg.solve(hessian, gradient[k])  # SciPy's own threads would contend
    return step


def _objective(
    scores: np.ndarray, labels: np.ndarray, theta: np.ndarray, ridge: np.ndarray
) -> np.ndarray:
    """Regularised negative log likelihood of each target, divided by C."""
    loss = np.logaddexp(0, scores) - labels * scores
    return loss.sum(axis=0) + 0.5 * np.sum(ridge * theta**2, axis=1)
