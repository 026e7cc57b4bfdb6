import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import special_ortho_group

from prefill_router.probes import anisotropy, effective_dimensionality

seeds = st.integers(0, 2**32 - 1)


def test_effective_dimensionality_of_known_spectra(rng):
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    np.testing.assert_allclose(effective_dimensionality(corners + 9), 4)
    np.testing.assert_allclose(effective_dimensionality(corners * [2, 1, 0, 0]), 25 / 17)
    line = rng.normal(size=(20, 1)) @ rng.normal(size=(1, 7))
    np.testing.assert_allclose(effective_dimensionality(line), 1)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)], ids=["tall", "wide"])
def test_effective_dimensionality_equals_the_eigenvalues(rng, shape):
    X = rng.normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 5
    eigenvalues = np.linalg.eigvalsh(np.cov(X, rowvar=False))
    expected = eigenvalues.sum() ** 2 / np.sum(eigenvalues**2)
    np.testing.assert_allclose(effective_dimensionality(X), expected)
    np.testing.assert_allclose(effective_dimensionality(X * 1e-9 - 2e-8), expected, rtol=1e-5)


def test_effective_dimensionality_of_one_point_is_undefined():
    assert np.isnan(effective_dimensionality(np.full((10, 3), 0.1)))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_anisotropy_equals_all_pairs(seed):
    X = np.random.default_rng(seed).normal(size=(15, 4)) + 0.5
    np.testing.assert_allclose(anisotropy(X), np.mean(1 - pdist(X, "cosine")), atol=1e-12)


def test_anisotropy_at_the_edges():
    np.testing.assert_allclose(anisotropy(np.full((5, 3), 2.0)), 1)
    np.testing.assert_allclose(anisotropy(np.array([[1.0, 0], [0, 3.0], [0, 0]])), 0)
    assert np.isnan(anisotropy(np.ones((1, 3))))


def test_d_eff_and_anisotropy_ignore_rotation_and_d_eff_a_shift(rng):
    X = rng.normal(size=(60, 5)) * [3, 2, 1, 1, 0.1] + 1
    turned = X @ special_ortho_group.rvs(5, random_state=0)
    np.testing.assert_allclose(effective_dimensionality(turned + 7), effective_dimensionality(X))
    np.testing.assert_allclose(anisotropy(turned), anisotropy(X))
