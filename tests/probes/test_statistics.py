import numpy as np
import pytest

from prefill_router.probes import decomposition as module
from prefill_router.probes.decomposition import chunks, column_scale, is_constant, moments, pool


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)


def test_chunks_are_all_rows_less_the_origin(rng):
    X, origin = rng.normal(size=(23, 3)).astype(np.float32), np.arange(3.0)
    joined = np.full(X.shape, np.nan)
    for place, block in chunks(X, origin):
        assert len(block) <= 7
        assert block.dtype == np.float64
        joined[place] = block
    np.testing.assert_array_equal(joined, X.astype(np.float64) - origin)


@pytest.mark.parametrize("shape", [(30, 4), (5, 9), (1, 3)], ids=["tall", "wide", "one row"])
def test_moments_are_numpys(rng, shape):
    X = (rng.normal(size=shape) + 5).astype(np.float32)
    summed, exact = moments(X), X.astype(np.float64)
    assert summed.count == len(X)
    np.testing.assert_allclose(summed.mean, exact.mean(axis=0), rtol=1e-14)
    centred = exact - exact.mean(axis=0)
    np.testing.assert_allclose(summed.scatter, centred.T @ centred, atol=1e-12)
    np.testing.assert_array_equal(summed.largest, np.abs(exact).max(axis=0))


def test_no_digits_cancel_far_from_zero_even_if_the_first_chunk_is_unlike_the_rest(rng):
    X = rng.normal(size=(200, 3)) + 1e8
    X[:7] += 1e4
    exact = np.cov(X - 1e8, rowvar=False, ddof=0)
    np.testing.assert_allclose(moments(X).scatter / 200, exact, rtol=1e-6)
    np.testing.assert_allclose(column_scale(X)[1], np.sqrt(np.diag(exact)), rtol=1e-6)


def test_constant_columns_have_infinite_scale_even_with_rounding_noise(rng):
    X = rng.normal(size=(40, 3)).astype(np.float32)
    X[:, 1] = np.float32(-7.3) + rng.choice([0, 4e-7], size=40).astype(np.float32)
    assert np.isinf(column_scale(X)[1]).tolist() == [False, True, False]
    assert np.isinf(moments(X).scale).tolist() == [False, True, False]
    np.testing.assert_allclose(column_scale(X)[1][::2], X.astype(float).std(axis=0)[::2])


def test_pooled_parts_are_the_whole(rng):
    X = rng.normal(size=(60, 4)) * [1, 10, 100, 1] + [0, 0, 0, 1e6]
    parts = [moments(X[:11]), moments(X[11:12]), moments(X[12:])]
    whole, pooled = moments(X), pool(parts)
    assert pooled.count == 60
    np.testing.assert_allclose(pooled.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(pooled.scatter, whole.scatter, rtol=1e-9, atol=1e-7)
    np.testing.assert_array_equal(pooled.largest, whole.largest)


def test_rows_that_are_the_same_are_constant_however_large():
    row = np.random.default_rng(3).normal(0, 1000, size=(1, 8)).astype(np.float32)
    same = np.repeat(row, 5000, axis=0)
    assert is_constant(same)
    assert same.std(axis=0).max() > 0  # which single precision does not see
    same[4321, 5] *= 1.001
    assert not is_constant(same)
