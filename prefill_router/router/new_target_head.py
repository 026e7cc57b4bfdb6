"""A head for a new target with few labels, which leans on what is known of the other targets."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.base import BaseEstimator

from prefill_router.errors import InputError

CLIP = 1e-3  # a predicted probability says no more than odds of 999 to 1


class NewTargetHead(BaseEstimator):
    r"""Logistic regression whose prior is that a new target finds hard what the others find hard.

    .. math::

        \operatorname{logit} P(\text{right on } i)
        = \bar z_i + a + \sum_j w_j z_{ij} + v^\top x_i, \qquad
        z_{ij} = \operatorname{logit} p_{ij}, \quad \bar z_i = \tfrac1K \sum_j z_{ij}

    The other targets' predictions p make up the shared difficulty; a is how able the new target is
    beyond the others, w which of them it resembles, and v what its own labels say of the features.

    Parameters
    ----------
    ability : float, default 1.0
        Prior variance of a, in squared logits.
    likeness : float, default 0.1
        Prior variance of each w.
    own : float, default 1.0
        Prior variance of the whole of v x, in squared logits, on average over the labelled
        queries; so the scale and number of the features do not matter. 0 leaves features out.

    Attributes
    ----------
    intercept_ : float
        a, and what centring the features subtracts.
    coef_others_ : ndarray of shape (K,)
        1 / K + w.
    coef_ : ndarray of shape (D,)
        v; empty where no features were given.

    Notes
    -----
    All priors are normal with mean zero, and the fit is the most probable one: without any label it
    is the others' mean logit, and with many it is a logistic regression on everything. With
    likeness and own at 0 it is the Rasch model with known difficulties, a the ability.

    References
    ----------
    Rasch, "Probabilistic Models for Some Intelligence and Attainment Tests", 1960. Daumé III,
    "Frustratingly easy domain adaptation", 2007, for shared and own coefficients side by side.
    """

    def __init__(self, ability: float = 1.0, likeness: float = 0.1, own: float = 1.0):
        self.ability = ability
        self.likeness = likeness
        self.own = own

    def fit(self, p_others: np.ndarray, y: np.ndarray, X: np.ndarray | None = None):
        """Fit to a new target's labels.

        Parameters
        ----------
        p_others : ndarray of shape (N, K)
            P(correct) predicted for the K other targets, by a model not fitted to these queries.
        y : ndarray of shape (N,)
            1 right, 0 wrong, NaN never asked (the query then says nothing).
        X : ndarray of shape (N, D), optional
            Features of the queries, the same that the other targets' heads read.

        Returns
        -------
        NewTargetHead

        Raises
        ------
        InputError
            If a shape, value or setting cannot be used.
        """
        if min(self.ability, self.likeness, self.own) < 0:
            raise InputError("ability, likeness and own are variances; each must be at least 0.")
        z, X = _checked(p_others, X)
        y = np.asarray(y, dtype=np.float64)
        if y.shape != (len(z),):
            raise InputError(f"y has shape {y.shape}; expected ({len(z)},), one label a query.")
        known = ~np.isnan(y)
        z, X, y = z[known], X[known], y[known]
        if not np.isin(y, (0, 1)).all():
            raise InputError("y must hold only 0, 1 and NaN.")
        centre = X.mean(axis=0) if len(X) else np.zeros(X.shape[1])
        spread = ((X - centre) ** 2).sum(axis=1).mean() if len(X) else 0.0
        variances = np.concatenate(
            [
                [self.ability],
                np.full(z.shape[1], self.likeness),
                np.full(X.shape[1], self.own / spread if spread > 0 else 0.0),
            ]
        )
        design = np.column_stack([np.ones(len(z)), z, X - centre])
        theta = _most_probable(design, y, z.mean(axis=1), variances)
        a, w, self.coef_ = np.split(theta, [1, 1 + z.shape[1]])
        self.coef_others_ = 1 / z.shape[1] + w
        self.intercept_ = float(a[0] - centre @ self.coef_)
        return self

    def predict_proba(self, p_others: np.ndarray, X: np.ndarray | None = None) -> np.ndarray:
        """Return the new target's P(correct), (n,), from `p_others` (n, K) and features `X`."""
        z, X = _checked(p_others, X)
        if z.shape[1] != len(self.coef_others_) or X.shape[1] != len(self.coef_):
            raise InputError(
                f"p_others and X have {z.shape[1]} and {X.shape[1]} columns; the head was fitted "
                f"to {len(self.coef_others_)} and {len(self.coef_)}."
            )
        return expit(self.intercept_ + z @ self.coef_others_ + X @ self.coef_)


def _checked(p_others: np.ndarray, X: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, K) and features (N, D), without any if there are none."""
    p = np.asarray(p_others, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] == 0 or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p_others, of shape {p.shape}, must be a matrix of probabilities.")
    X = np.empty((len(p), 0)) if X is None else np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or len(X) != len(p) or not np.isfinite(X).all():
        raise InputError(f"X, of shape {X.shape}, must hold {len(p)} rows of finite numbers.")
    return logit(p.clip(CLIP, 1 - CLIP)), X


def _most_probable(
    design: np.ndarray, y: np.ndarray, offset: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """Maximise the posterior of a logistic regression with an offset and normal priors."""
    scaled, signs = design * np.sqrt(variances), 2 * y - 1  # of unit variance, and 0 stays 0

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (offset + scaled @ theta)
        loss = np.logaddexp(0, -margins).sum() + theta @ theta / 2
        return loss, theta - scaled.T @ (signs * expit(-margins))

    start = np.zeros(design.shape[1])
    options = {"maxiter": 1000, "gtol": 1e-6, "ftol": 1e-12}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.x * np.sqrt(variances)
