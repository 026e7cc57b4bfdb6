import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.preprocessing import StandardScaler

from prefill_router.baselines.latent import ItemResponse, MatrixFactorisation
from prefill_router.errors import InputError


def problem(n=150, width=3, n_targets=3, missing=0.2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, width))
    Y = (rng.random((n, n_targets)) < expit(X @ rng.normal(size=(width, n_targets)))).astype(float)
    Y[rng.random(Y.shape) < missing] = np.nan
    return X, Y


def test_factorisation_of_full_rank_is_logistic_regression_under_the_nuclear_norm():
    """Checked against proximal gradient descent on the convex problem."""
    X, Y = problem()
    C, step = 0.5, 0.02
    x, known, labels = StandardScaler().fit_transform(X), ~np.isnan(Y), np.nan_to_num(Y)
    B, a = np.zeros((3, 3)), np.zeros(3)
    for _ in range(4000):
        residual = C * known * (expit(x @ B + a) - labels)
        left, values, right = np.linalg.svd(B - step * x.T @ residual)
        B = left @ np.diag(np.maximum(values - step, 0)) @ right
        a = a - step * residual.sum(axis=0)
    assert np.linalg.matrix_rank(B) >= 2
    p = MatrixFactorisation(n_factors=3, C=C).fit(X, Y).predict_proba(X)
    np.testing.assert_allclose(p, expit(x @ B + a), atol=1e-3)


def test_item_response_minimises_its_stated_objective():
    """Checked against a search without gradients or torch, from several starts."""
    X, Y = problem(60, width=1, n_targets=2)
    x, C = StandardScaler().fit_transform(X)[:, 0], 0.3

    def logits(theta):
        A, beta, first, second, alpha, beta_0 = theta
        discrimination = np.log(1 + np.exp(A * x + alpha))
        return np.outer(discrimination, [first, second]) - (beta * x + beta_0)[:, None]

    def objective(theta):
        losses = np.logaddexp(0, np.where(Y == 1, -1, 1) * logits(theta))
        return C * losses[~np.isnan(Y)].sum() + (theta[:4] ** 2).sum() / 2

    starts = np.random.default_rng(1).normal(size=(6, 6))
    best = min((minimize(objective, start) for start in starts), key=lambda found: found.fun)
    model = ItemResponse(n_factors=1, C=C).fit(X, Y)
    (A, beta, theta), (alpha, beta_0) = model.weights_, model.intercepts_
    found = objective(np.array([A[0, 0], beta[0], *theta[:, 0], alpha[0], beta_0]))
    assert found == pytest.approx(best.fun, rel=1e-4)
    np.testing.assert_allclose(model.predict_proba(X), expit(logits(best.x)), atol=0.02)


def test_item_response_recovers_the_world_it_describes():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(3000, 4))
    discrimination = np.log1p(np.exp(X @ [0.8, -0.5, 0, 0] + 0.7))
    ability = np.array([-1.0, 0.3, 1.4])
    truth = expit(discrimination[:, None] * ability - (X @ [0, 0, 1.0, -0.6])[:, None])
    Y = (rng.random(truth.shape) < truth).astype(float)
    p = ItemResponse(n_factors=1, C=10).fit(X, Y).predict_proba(X)
    assert np.abs(p - truth).mean() < 0.02
    order = np.argsort(p, axis=1)
    assert (order == order[0]).all()  # one ability: every query ranks the targets alike


def test_several_abilities_let_targets_be_best_at_different_queries():
    X, Y = problem(400, width=2, n_targets=2, missing=0, seed=4)
    Y[:, 0], Y[:, 1] = X[:, 0] > 0, X[:, 0] < 0
    p = ItemResponse(n_factors=2, C=1).fit(X, Y).predict_proba(X)
    assert (np.argmax(p, axis=1) == np.argmax(Y, axis=1)).mean() > 0.95


@pytest.mark.parametrize("model", [MatrixFactorisation, ItemResponse])
@pytest.mark.parametrize("setting", [{"n_factors": 0}, {"C": 0.0}])
def test_settings_that_mean_nothing_are_refused(model, setting):
    with pytest.raises(InputError, match="at least 1"):
        model(**setting).fit(*problem())
