import numpy as np
import pytest
from brute_force import fisher_by_loops
from hypothesis import given, settings
from hypothesis import strategies as st
from random_labels import labels_of_both_kinds
from scipy.spatial.distance import pdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from prefill_router.errors import InputError
from prefill_router.extraction.activations import Activations
from prefill_router.probes import (
    anisotropy,
    effective_dimensionality,
    probe_layers,
    separability,
    whitened_separability,
)

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_separability_equals_a_loop_over_targets_with_missing_labels(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 5)) * 10.0 ** rng.integers(-4, 4, 5) + 3
    Y = labels_of_both_kinds(rng, 40, 3)
    expected = [fisher_by_loops(X, y) for y in Y.T]
    np.testing.assert_allclose(separability(X, Y), expected, rtol=1e-8)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_full_rank_rotation_keeps_J_and_truncation_does_not(seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), labels_of_both_kinds(rng, 50, 2, 0)
    activations = Activations.from_arrays({(0, "mean"): X})
    full = probe_layers(activations, Y, np.arange(50), pca_dimension=6)
    np.testing.assert_allclose(full["J_pca"], full["J"], rtol=1e-5)
    cut = probe_layers(activations, Y, np.arange(50), pca_dimension=2)
    assert not np.allclose(cut["J_pca"], cut["J"], rtol=1e-3)


def test_separability_at_the_edges(rng):
    X = rng.normal(size=(10, 3))
    Y = np.full((10, 3), np.nan)
    Y[:, 1], Y[::2, 2], Y[1::2, 2] = 1, 0, 1
    J = separability(X, Y)
    assert np.isnan(J[:2]).all()
    assert J[2] > 0
    assert separability(np.full((10, 3), 2.5), Y)[2] == 0
    assert separability(Y[:, 2:] * 3.0, Y)[2] == np.inf
    with pytest.raises(InputError, match=r"Y has shape \(10,\); expected \(10, K\)"):
        separability(X, Y[:, 0])


def test_a_column_that_is_constant_over_a_targets_rows_is_dropped_for_it(rng):
    X, Y = rng.normal(size=(30, 3)), labels_of_both_kinds(rng, 30, 1, missing=0)
    X[:20, 1] = 5.0
    Y[20:] = np.nan
    np.testing.assert_allclose(separability(X, Y), separability(X[:, [0, 2]], Y), rtol=1e-9)


def test_whitened_separability_is_scikit_learns_discriminant(rng):
    """LDA's coefficients are the inverse within-class covariance times the difference of means."""
    X, Y = rng.normal(size=(80, 4)) @ rng.normal(size=(4, 4)), labels_of_both_kinds(rng, 80, 2)
    X[:, 0] += np.nan_to_num(Y[:, 0])
    for found, y in zip(whitened_separability(X, Y), Y.T, strict=True):
        known = ~np.isnan(y)
        n, d, n_right = known.sum(), 4, int(np.nansum(y))
        lda = LinearDiscriminantAnalysis(solver="lsqr").fit(X[known], y[known])
        squared = (lda.coef_ @ (lda.means_[1] - lda.means_[0])).item() * (n - 2) / n
        unbiased = (n - d - 3) / (n - 2) * squared - d * (1 / n_right + 1 / (n - n_right))
        np.testing.assert_allclose(found, unbiased, rtol=1e-9)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_whitened_separability_ignores_linear_maps_and_J_does_not(seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(60, 4)), labels_of_both_kinds(rng, 60, 2)
    mapped = X @ (rng.normal(size=(4, 4)) + 3 * np.eye(4)) + 5
    same, found = (whitened_separability(states, Y) for states in (mapped, X))
    np.testing.assert_allclose(same, found, rtol=1e-6, atol=1e-9)
    plain, stretched = (separability(states, Y, False) for states in (X, X * [100, 1, 1, 1]))
    assert not np.allclose(plain, stretched, rtol=1e-3)


def test_whitened_separability_has_no_bias(rng):
    """Two means 1.5 apart in 20 correlated dimensions, 60 rows: far too few to fit without bias."""
    spread = rng.normal(size=(20, 20)) + 2 * np.eye(20)
    y = np.repeat([0.0, 1.0], [35, 25])
    found = []
    for _ in range(1000):
        X = rng.normal(size=(60, 20))
        X[y == 1, 0] += 1.5
        found.append(whitened_separability(X @ spread, y[:, None])[0])
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 1.5**2) < 4 * error
    assert error < 0.1


def test_whitened_separability_at_the_edges(rng):
    X, Y = rng.normal(size=(12, 3)), labels_of_both_kinds(rng, 12, 3, missing=0)
    Y[:, 1], Y[6:, 2] = 1, np.nan
    found = whitened_separability(X, Y)
    assert np.isfinite(found[0])
    assert np.isnan(found[1:]).all()  # one class; six labelled rows for three dimensions
    assert whitened_separability(np.zeros((12, 3)), Y)[0] == 0
    twice = whitened_separability(np.hstack([X, X]), Y)[0]
    np.testing.assert_allclose(twice, found[0])


def test_effective_dimensionality_of_known_spectra():
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    np.testing.assert_allclose(effective_dimensionality(corners + 9), 4)
    np.testing.assert_allclose(effective_dimensionality(corners * [2, 1, 0, 0]), 25 / 17)
    assert np.isnan(effective_dimensionality(np.full((10, 3), 0.1)))


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)], ids=["tall", "wide"])
def test_effective_dimensionality_equals_the_eigenvalues(rng, shape):
    X = rng.normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 5
    eigenvalues = np.linalg.eigvalsh(np.cov(X, rowvar=False))
    expected = eigenvalues.sum() ** 2 / np.sum(eigenvalues**2)
    np.testing.assert_allclose(effective_dimensionality(X), expected)
    np.testing.assert_allclose(effective_dimensionality(X * 1e-9 - 2e-8), expected, rtol=1e-5)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_anisotropy_equals_all_pairs(seed):
    X = np.random.default_rng(seed).normal(size=(15, 4)) + 0.5
    np.testing.assert_allclose(anisotropy(X), np.mean(1 - pdist(X, "cosine")), atol=1e-12)
    np.testing.assert_allclose(anisotropy(np.array([[1.0, 0], [0, 3.0], [0, 0]])), 0)
    assert np.isnan(anisotropy(X[:1]))
