import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.probes import decomposition as module
from prefill_router.probes.decomposition import decompose, decompose_folds, moments


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)


# -- sums over rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 4), (5, 9), (1, 3)], ids=["tall", "wide", "one row"])
def test_moments_are_numpys(rng, shape, small_chunks):
    X = (rng.normal(size=shape) + 5).astype(np.float32)
    summed, exact = moments(X), X.astype(np.float64)
    assert summed.count == len(X)
    np.testing.assert_allclose(summed.mean, exact.mean(axis=0), rtol=1e-14)
    centred = exact - exact.mean(axis=0)
    np.testing.assert_allclose(summed.scatter, centred.T @ centred, atol=1e-12)
    np.testing.assert_array_equal(summed.largest, np.abs(exact).max(axis=0))


def test_no_digits_cancel_far_from_zero_if_the_first_chunk_is_unlike(rng, small_chunks):
    X = rng.normal(size=(200, 3)) + 1e8
    X[:7] += 1e4
    exact = np.cov(X - 1e8, rowvar=False, ddof=0)
    np.testing.assert_allclose(moments(X).scatter / 200, exact, rtol=1e-6)


def test_pooled_parts_are_the_whole(rng):
    X = rng.normal(size=(60, 4)) * [1, 10, 100, 1] + [0, 0, 0, 1e6]
    whole, pooled = moments(X), module.pool([moments(X[:11]), moments(X[11:12]), moments(X[12:])])
    assert pooled.count == 60
    np.testing.assert_allclose(pooled.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(pooled.scatter, whole.scatter, rtol=1e-9, atol=1e-7)
    np.testing.assert_array_equal(pooled.largest, whole.largest)


def test_constant_columns_have_infinite_scale_even_with_rounding_noise(rng):
    X = rng.normal(size=(40, 3)).astype(np.float32)
    X[:, 1] = np.float32(-7.3) + rng.choice([0, 4e-7], size=40).astype(np.float32)
    for scale in (moments(X).scale, decompose(X[:2], 2).scale, decompose(X, 3).scale):
        assert np.isinf(scale).tolist() == [False, True, False]
    np.testing.assert_allclose(scale[::2], X.astype(float).std(axis=0)[::2])


def test_rows_that_are_the_same_are_constant_however_large():
    row = np.random.default_rng(3).normal(0, 1000, size=(1, 8)).astype(np.float32)
    same = np.repeat(row, 5000, axis=0)
    assert module.is_constant(same)
    assert same.std(axis=0).max() > 0  # which single precision does not see
    same[4321, 5] *= 1.001
    assert not module.is_constant(same)


# -- principal components ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)], ids=["tall", "wide"])
def test_equals_scikit_learn_up_to_sign(rng, shape):
    X, new = rng.normal(size=shape) * 5 + 3, rng.normal(size=(7, shape[1]))
    pipeline = make_pipeline(StandardScaler(), PCA(6, svd_solver="full")).fit(X)
    ours = decompose(X, 6)
    largest = ours.components[np.abs(ours.components).argmax(axis=0), np.arange(6)]
    assert (largest > 0).all()
    for rows in (X, new):
        found, expected = (np.abs(it.transform(rows)) for it in (ours, pipeline))
        np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(ours.transform(X)[:, :3], decompose(X, 3).transform(X), atol=1e-9)
    assert decompose(X, 100).components.shape == (shape[1], min(shape))


def test_constant_columns_become_zero(rng):
    X = rng.normal(size=(40, 3))
    X[:, 1] = 7.3
    unseen = decompose(X, 3).transform(np.array([[0.0, 1e6, 0.0]]))
    np.testing.assert_allclose(unseen, decompose(X, 3).transform(np.zeros((1, 3))))
    fitted = decompose(np.full((20, 4), 3.7), 2)
    assert np.isinf(fitted.scale).all()
    assert not fitted.transform(np.arange(8.0).reshape(2, 4)).any()


def test_collinear_columns_give_orthonormal_components(rng):
    X = rng.normal(size=(50, 3))
    X = np.hstack([X, X, 2 * X])
    fitted = decompose(X, 6)
    np.testing.assert_allclose(fitted.components.T @ fitted.components, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(fitted.transform(X)[:, 3:], 0, atol=1e-7)


@pytest.mark.parametrize("shape", [(60, 12), (20, 18)], ids=["pooled", "too few rows to pool"])
def test_folds_are_decompositions_of_their_training_rows_alone(rng, shape):
    X = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 50
    folds = np.array_split(rng.permutation(len(X)), 4)
    before = decompose_folds(X, folds, 5)
    for fold, ours in zip(folds, before, strict=True):
        alone = decompose(np.delete(X, fold, axis=0), 5)
        for name in ("mean", "scale", "components"):
            np.testing.assert_allclose(getattr(ours, name), getattr(alone, name), atol=1e-8)
    X[folds[2]] = 1e9
    after = decompose_folds(X, folds, 5)
    for name in ("mean", "scale", "components"):
        np.testing.assert_array_equal(getattr(after[2], name), getattr(before[2], name))
    assert not np.allclose(after[1].mean, before[1].mean)
