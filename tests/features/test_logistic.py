import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from prefill_router.errors import InputError
from prefill_router.features.logistic import fit_logistic, predict_logistic


def problem(rng, n=300, d=6, k=4, missing=0.3):
    X = rng.normal(size=(n, d)) * np.linspace(0.1, 4, d)
    p = 1 / (1 + np.exp(-X @ rng.normal(size=(d, k)) - rng.normal(size=k)))
    Y = (rng.random((n, k)) < p).astype(float)
    return X, np.where(rng.random((n, k)) < missing, np.nan, Y)


def assert_equals_scikit_learn(X, Y, C, atol):
    """Compare probabilities of all rows with fits on each target's labelled rows."""
    p = predict_logistic(X, *fit_logistic(X, Y, C))
    for k, y in enumerate(Y.T):
        known = ~np.isnan(y)
        reference = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        expected = reference.fit(X[known], y[known]).predict_proba(X)[:, 1]
        np.testing.assert_allclose(p[:, k], expected, atol=atol)


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_equals_scikit_learn_on_each_targets_labelled_rows(rng, C):
    X, Y = problem(rng)
    Y[:, 3] = np.where(np.isnan(Y[:, 2]), np.nan, Y[:, 3])
    assert_equals_scikit_learn(X, Y, C, 1e-4)


@pytest.mark.parametrize("C", [1e-3, 10.0])
def test_collinear_columns_of_unequal_size(rng, C):
    """Columns repeated, nearly repeated and a thousand times larger: the product of many layers."""
    X, Y = problem(rng, n=400, k=2, missing=0)
    X = np.hstack([X, X, 1000 * X, X + 1e-3 * rng.normal(size=X.shape)])
    assert_equals_scikit_learn(X - X.mean(axis=0), Y, C, 2e-3)


def test_separable_labels_with_hardly_a_penalty_stay_finite(rng):
    X = rng.normal(size=(50, 2)) * 100
    Y = (X[:, :1] > 0).astype(float)
    coef, intercept = fit_logistic(X, Y, C=1e8)
    assert np.isfinite(coef).all()
    assert ((predict_logistic(X, coef, intercept) > 0.5) == Y).all()
    for labels, C, message in ((Y[1:], 1, "as many rows"), (Y, 0, "C is 0")):
        with pytest.raises(InputError, match=message):
            fit_logistic(X, labels, C)


def test_targets_without_both_classes_get_their_smoothed_base_rate(rng):
    X = rng.normal(size=(8, 3))
    Y = np.column_stack([np.ones(8), np.zeros(8), np.full(8, np.nan), np.arange(8) % 2])
    Y[4:, 0] = np.nan
    coef, intercept = fit_logistic(X, Y)
    p = predict_logistic(X, coef, intercept)
    np.testing.assert_allclose(p[:, :3], np.tile([5 / 6, 1 / 10, 1 / 2], (8, 1)))
    assert np.ptp(p[:, 3]) > 0
