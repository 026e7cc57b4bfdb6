import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.decomposition import decompose
from prefill_router.moments import column_scale


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)], ids=["tall", "wide"])
def test_equals_scikit_learn_up_to_sign(rng, shape):
    X, new = rng.normal(size=shape) * 5 + 3, rng.normal(size=(7, shape[1]))
    pipeline = make_pipeline(StandardScaler(), PCA(6, svd_solver="full")).fit(X)
    ours = decompose(X, 6)
    for rows in (X, new):
        np.testing.assert_allclose(
            np.abs(ours.transform(rows)), np.abs(pipeline.transform(rows)), atol=1e-8
        )


def test_sign_is_fixed_by_the_largest_entry(rng):
    components = decompose(rng.normal(size=(50, 9)), 9).components
    largest = components[np.abs(components).argmax(axis=0), np.arange(9)]
    assert (largest > 0).all()


def test_a_larger_decomposition_serves_the_smaller(rng):
    X = rng.normal(size=(50, 9)) @ rng.normal(size=(9, 9))
    np.testing.assert_allclose(
        decompose(X, 8).transform(X)[:, :3], decompose(X, 3).transform(X), atol=1e-9
    )


def test_dimension_is_clipped_to_rows_and_columns(rng):
    assert decompose(rng.normal(size=(50, 9)), 100).components.shape == (9, 9)
    assert decompose(rng.normal(size=(5, 9)), 100).components.shape == (9, 5)


def test_constant_columns_become_zero_even_with_rounding_noise(rng):
    X = rng.normal(size=(40, 3))
    X[:, 1] = np.float32(7.3) + rng.choice([0, 4e-7], size=40)
    assert np.isinf(column_scale(X)[1]).tolist() == [False, True, False]
    unseen = decompose(X, 3).transform(np.array([[0.0, 1e6, 0.0]]))
    np.testing.assert_allclose(unseen, decompose(X, 3).transform(np.zeros((1, 3))))


def test_constant_states_give_zeros():
    fitted = decompose(np.full((20, 4), 3.7), 2)
    assert fitted.constant
    assert not fitted.transform(np.arange(8.0).reshape(2, 4)).any()
