"""Routers that place queries and targets in a space of few factors: factorisation, item response.

Both read an embedding x of the query and are fitted by penalised maximum likelihood: they minimise

    1/2 (sum of squared weights) + C * (sum over labels of the logistic loss)

by L-BFGS from seeded starting values, intercepts not penalised, missing labels left out.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logit
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from prefill_router.baselines import base_rate, estimator
from prefill_router.errors import InputError
from prefill_router.labels import label_matrix


@estimator
class _LatentFactors(BaseEstimator):
    """What both models share; each adds its starting values and its logits.

    Parameters
    ----------
    n_factors : int, default 4
    C : float, default 0.1
        Inverse strength of the penalty.
    random_state : int, default 0
        Draws the starting values.
    """

    n_factors: int = 4
    C: float = 0.1
    random_state: int = 0

    def fit(self, X: np.ndarray, Y: np.ndarray):
        """Fit to embeddings `X` (N, D), whose columns are standardised first.

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, `n_factors` is below 1 or `C` is not
            positive.
        """
        Y = label_matrix(Y, X)
        if self.n_factors < 1 or not self.C > 0:
            raise InputError(f"n_factors {self.n_factors} must be at least 1, C {self.C} positive.")
        self.labelled_ = ~np.isnan(Y).all(axis=0)
        self.scaler_ = StandardScaler().fit(np.asarray(X, dtype=np.float64))
        x = torch.from_numpy(self.scaler_.transform(np.asarray(X, dtype=np.float64)))
        labels = torch.from_numpy(np.nan_to_num(Y))
        known = torch.from_numpy((~np.isnan(Y)).astype(np.float64))
        rng = np.random.default_rng(self.random_state)
        weights, intercepts = self._start(x.shape[1], base_rate(Y), rng)
        start = [*weights, *intercepts]

        def unpack(flat: Tensor) -> list[Tensor]:
            pieces = flat.split([part.size for part in start])
            return [piece.reshape(part.shape) for piece, part in zip(pieces, start, strict=True)]

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = torch.tensor(flat, requires_grad=True)
            parts = unpack(parameters)
            loss = self.C * binary_cross_entropy_with_logits(
                self._logits(x, *parts), labels, weight=known, reduction="sum"
            )
            loss = loss + sum((weight**2).sum() for weight in parts[: len(weights)]) / 2
            loss.backward()
            return loss.item(), parameters.grad.numpy()

        flat = np.concatenate([part.ravel() for part in start])
        found = minimize(objective, flat, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        parts = [part.numpy() for part in unpack(torch.from_numpy(found.x))]
        self.weights_, self.intercepts_ = parts[: len(weights)], parts[len(weights) :]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from embeddings `X` (n, D); one half for a target without any label."""
        x = torch.from_numpy(self.scaler_.transform(np.asarray(X, dtype=np.float64)))
        tensors = [torch.from_numpy(part) for part in (*self.weights_, *self.intercepts_)]
        p = torch.sigmoid(self._logits(x, *tensors)).numpy()
        return np.where(self.labelled_, p, 0.5)


class MatrixFactorisation(_LatentFactors):
    r"""A bilinear score of the projected query and a vector for each target.

    .. math:: \operatorname{logit} P(\text{target } k \text{ is right on } i) = u_k^\top W x_i + a_k

    Parameters
    ----------
    n_factors : int, default 4
        Rows of W, which is also the length of each target's vector.
    C : float, default 0.1
        Inverse strength of the penalty.
    random_state : int, default 0
        Draws the starting values.

    Attributes
    ----------
    scaler_ : StandardScaler
    weights_ : list of ndarray
        W (n_factors, D) and the targets' vectors U (K, n_factors).
    intercepts_ : list of ndarray
        a (K,).
    labelled_ : ndarray of bool, shape (K,)

    Notes
    -----
    RouteLLM's factorisation, with labels of each target in place of preferences between two: the
    loss is that of every label by itself, so that any number of targets can be scored. With
    n_factors at least min(D, K) the model is a logistic regression of all targets at once whose
    coefficients U W are penalised by their nuclear norm.

    References
    ----------
    Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data", 2024. Srebro, Rennie and
    Jaakkola, "Maximum-margin matrix factorization", 2004, for the nuclear norm.
    """

    def _start(self, width: int, rates: np.ndarray, rng: np.random.Generator):
        W = rng.normal(0, 0.1, size=(self.n_factors, width))
        U = rng.normal(0, 0.1, size=(len(rates), self.n_factors))
        return [W, U], [logit(rates)]

    @staticmethod
    def _logits(x: Tensor, W: Tensor, U: Tensor, a: Tensor) -> Tensor:
        return x @ W.T @ U.T + a


class ItemResponse(_LatentFactors):
    r"""Two-parameter item response theory whose items, the queries, are described by embeddings.

    .. math::

        \operatorname{logit} P(\text{target } k \text{ is right on } i)
        = \sum_d s_{id} \theta_{kd} - b_i, \qquad
        s_i = \operatorname{softplus}(A x_i + \alpha), \quad b_i = \beta^\top x_i + \beta_0

    Parameters
    ----------
    n_factors : int, default 4
        Abilities d of each target. One is the classic two-parameter logistic model: then all
        queries agree on which target is best, and a router differs from the best single target
        only where it saves costs. More make it the multidimensional model.
    C : float, default 0.1
        Inverse strength of the penalty.
    random_state : int, default 0
        Draws the starting values.

    Attributes
    ----------
    scaler_ : StandardScaler
    weights_ : list of ndarray
        A (n_factors, D), beta (D,) and the abilities theta (K, n_factors).
    intercepts_ : list of ndarray
        alpha (n_factors,) and beta_0 ().
    labelled_ : ndarray of bool, shape (K,)

    Notes
    -----
    s_i are the query's discriminations, never negative; b_i is its difficulty, in the intercept
    form of the model. Both are regressed on the embedding, so that a new query has them too. The
    penalty on abilities is the usual standard normal prior.

    References
    ----------
    Birnbaum in Lord and Novick, "Statistical Theories of Mental Test Scores", 1968. Reckase,
    "Multidimensional Item Response Theory", 2009. De Boeck and Wilson, "Explanatory Item Response
    Models", 2004, for items described by covariates.
    """

    def _start(self, width: int, rates: np.ndarray, rng: np.random.Generator):
        A = rng.normal(0, 0.1 / np.sqrt(width), size=(self.n_factors, width))
        theta = logit(rates)[:, None] / self.n_factors
        theta = theta + rng.normal(0, 0.1, size=(len(rates), self.n_factors))
        one = np.log(np.e - 1)  # softplus of it is 1
        return [A, np.zeros(width), theta], [np.full(self.n_factors, one), np.zeros(())]

    @staticmethod
    def _logits(
        x: Tensor, A: Tensor, beta: Tensor, theta: Tensor, alpha: Tensor, beta_0: Tensor
    ) -> Tensor:
        return softplus(x @ A.T + alpha) @ theta.T - (x @ beta + beta_0)[:, None]
