"""Logistic regressions of many targets on the same features, each with its own missing labels."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from prefill_router.errors import InputError

MAX_ITERATIONS = 100  # Newton steps; about six are needed


def fit_logistic(X: np.ndarray, Y: np.ndarray, C: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    r"""Fit one L2-regularised logistic regression a target by Newton's method.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Features.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked (the row then says nothing about that target).
    C : float, default 1.0
        Inverse strength of the penalty, as in scikit-learn.

    Returns
    -------
    coef : ndarray of shape (K, D)
    intercept : ndarray of shape (K,)
        A target whose labels are all alike gets no coefficients and the intercept of its smoothed
        base rate, (right + 1) / (labelled + 2), which is one half where there are no labels.

    Raises
    ------
    InputError
        If `X` and `Y` are not matrices with as many rows, or `C` is not positive.

    Notes
    -----
    Minimises :math:`\tfrac12\lVert w\rVert^2 + C\sum_i \log(1 + e^{-z_i(x_i w + b)})` with z = 1
    for right and -1 for wrong answers. The intercept is not penalised. A step is halved until
    the objective falls enough, so the iteration cannot diverge.

    No Hessian is formed: the steps of all regressions are found side by side by conjugate
    gradients, whose every iteration is one product with `X` for all of them. The features are
    turned to their principal axes, which leaves the objective as it is: uncorrelated columns need
    few iterations, with the Hessians' diagonals as preconditioner.
    """
    X, Y = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        raise InputError(f"X {X.shape} and Y {Y.shape} must be matrices with as many rows.")
    if not C > 0:
        raise InputError(f"C is {C}; it must be positive.")
    axes = np.linalg.eigh(X.T @ X)[1]
    theta = _newton(X @ axes, Y, C)
    return theta[:, :-1] @ axes.T, theta[:, -1].copy()


def predict_logistic(X: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Return the probabilities, (N, K), that the coefficients give the features `X`, (N, D)."""
    return expit(np.asarray(X, dtype=np.float64) @ coef.T + intercept)


def _newton(X: np.ndarray, Y: np.ndarray, C: float) -> np.ndarray:
    """Damped Newton for labels Y (N, K); returns slopes and intercepts theta, (K, D + 1)."""
    design = np.hstack([X, np.ones((len(X), 1))])
    ridge = np.append(np.ones(X.shape[1]), 0.0) / C
    known, labels = (~np.isnan(Y)).astype(np.float64), np.nan_to_num(Y)
    right, n_known = labels.sum(axis=0), known.sum(axis=0)
    theta = np.zeros((Y.shape[1], design.shape[1]))
    theta[:, -1] = logit((right + 1) / (n_known + 2))
    active = np.flatnonzero((right > 0) & (right < n_known))
    scores, rough = design @ theta.T, design.astype(np.float32)
    squares = rough**2
    current = _objective(scores, labels, known, theta, ridge)
    for _ in range(MAX_ITERATIONS):
        if active.size == 0:
            break
        here, mask, y = theta[active], known[:, active], labels[:, active]
        p = expit(scores[:, active])
        gradient = (mask * (p - y)).T @ design + ridge * here
        curvature = mask * p * (1 - p)
        step = _newton_steps(rough, squares, curvature, ridge, gradient)
        decrement = np.sum(gradient * step, axis=1)
        before, shifts = current[active], design @ step.T
        size = np.ones(active.size)
        for _ in range(30):
            proposal, reached = here - size[:, None] * step, scores[:, active] - size * shifts
            after = _objective(reached, y, mask, proposal, ridge)
            failing = after > before - 1e-4 * size * decrement + 1e-12 * np.abs(before)
            if not failing.any():
                break
            size[failing] /= 2
        theta[active], scores[:, active], current[active] = proposal, reached, after
        active = active[decrement > 1e-6 * n_known[active]]  # what is left is about its square
    return theta


def _newton_steps(
    design: np.ndarray,
    squares: np.ndarray,
    curvature: np.ndarray,
    ridge: np.ndarray,
    gradient: np.ndarray,
) -> np.ndarray:
    """Solve each regression's Newton system for its gradient (M, D + 1), by conjugate gradients.

    `squares` are the design's; `curvature` (N, M) weighs the rows. The nearer the optimum, the
    more exact the solution, which keeps Newton's fast convergence. A step is no better for more
    digits than float32 has: the gradient, which decides where the steps end, is exact.
    """
    curvature = curvature.astype(np.float32)
    diagonal = curvature.T @ squares + ridge
    inverse = 1 / np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True))
    step, residual = np.zeros_like(gradient), gradient.copy()
    direction = inverse * residual
    error = np.sum(residual * direction, axis=1)
    enough = error * np.minimum(0.01, error / len(design))
    for _ in range(design.shape[1]):
        if (error <= enough).all():
            break
        weighted = curvature * (design @ direction.T.astype(np.float32))
        image = weighted.T @ design + ridge * direction
        slope = np.sum(direction * image, axis=1)
        length = np.divide(error, slope, out=np.zeros_like(error), where=slope > 0)[:, None]
        step += length * direction
        residual -= length * image
        conditioned = inverse * residual
        before, error = error, np.sum(residual * conditioned, axis=1)
        ratio = np.divide(error, before, out=np.zeros_like(error), where=before > 0)
        direction = conditioned + ratio[:, None] * direction
    return step


def _objective(
    scores: np.ndarray, labels: np.ndarray, known: np.ndarray, theta: np.ndarray, ridge: np.ndarray
) -> np.ndarray:
    """Regularised negative log likelihood of each regression, divided by C."""
    softplus = np.log(1 + np.exp(-np.abs(scores))) + np.maximum(scores, 0)
    loss = known * (softplus - labels * scores)
    return loss.sum(axis=0) + 0.5 * np.sum(ridge * theta**2, axis=1)
