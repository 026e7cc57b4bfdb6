import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.probes.decomposition import column_scale, decompose, decompose_folds


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


@pytest.mark.parametrize("shape", [(60, 12), (20, 18)], ids=["pooled", "too few rows to pool"])
def test_folds_equal_decompositions_of_their_training_rows(rng, shape):
    X = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 50
    folds = np.array_split(rng.permutation(len(X)), 4)
    for fold, ours in zip(folds, decompose_folds(X, folds, 5), strict=True):
        alone = decompose(np.delete(X, fold, axis=0), 5)
        np.testing.assert_allclose(ours.mean, alone.mean)
        np.testing.assert_allclose(ours.scale, alone.scale)
        np.testing.assert_allclose(ours.components, alone.components, atol=1e-8)


@pytest.mark.parametrize("shape", [(60, 12), (20, 18)], ids=["pooled", "too few rows to pool"])
def test_a_folds_own_rows_do_not_touch_its_decomposition(rng, shape):
    X, folds = rng.normal(size=shape), np.array_split(np.arange(shape[0]), 4)
    before = decompose_folds(X, folds, 5)
    X[folds[2]] = 1e9
    after = decompose_folds(X, folds, 5)
    for name in ("mean", "scale", "components"):
        np.testing.assert_array_equal(getattr(after[2], name), getattr(before[2], name))
    assert not np.allclose(after[1].mean, before[1].mean)


def test_collinear_columns_give_orthonormal_components(rng):
    X = rng.normal(size=(50, 3))
    components = decompose(np.hstack([X, X, 2 * X]), 6).components
    np.testing.assert_allclose(components.T @ components, np.eye(6), atol=1e-10)
    reduced = decompose(np.hstack([X, X, 2 * X]), 6).transform(np.hstack([X, X, 2 * X]))
    np.testing.assert_allclose(reduced[:, 3:], 0, atol=1e-7)
