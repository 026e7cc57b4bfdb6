import numpy as np
import pytest
from sklearn.linear_model import Ridge

from prefill_router.baselines.classifiers import (
    RidgePath,
    completed,
    join_parts,
    split_labels,
)
from prefill_router.errors import InputError


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 7)) * [3, 1, 1, 0.1, 1, 1, 0]
    return X, rng.normal(size=(60, 3)) + X[:, :3]


def test_every_penalty_is_a_ridge_regression_of_scikit_learn(data):
    X, Y = data
    penalties = (0.01, 1.0, 30.0)
    unit = ((X - X.mean(axis=0)) ** 2).sum() / X.shape[1]
    for penalty, found in zip(penalties, RidgePath(penalties).fit(X, Y).predict(X), strict=True):
        assert found == pytest.approx(Ridge(alpha=penalty * unit).fit(X, Y).predict(X), abs=1e-9)


def test_features_that_do_not_vary_predict_the_mean(data):
    X, Y = data
    found = RidgePath([1.0]).fit(np.ones_like(X), Y).predict(X)
    assert found == pytest.approx(np.broadcast_to(Y.mean(axis=0), (1, *Y.shape)))


def test_a_penalty_of_zero_is_refused(data):
    with pytest.raises(InputError, match="must all be positive"):
        RidgePath([1.0, 0.0]).fit(*data)


def test_missing_labels_deviate_as_their_target_does():
    Y = np.array([[1, np.nan, 0], [np.nan, np.nan, np.nan], [1, 1, 0]])
    accuracy = np.array([0.8, 0.6, 0.4])
    shift = ((1 - 0.8) + (0 - 0.4)) / 2
    assert completed(Y, accuracy) == pytest.approx(
        np.array([[1, 0.6 + shift, 0], accuracy, [1, 1, 0]])
    )


def test_parts_of_labels_add_up_again():
    Y = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(float)
    parts = split_labels(Y)
    assert parts[:, 0] == pytest.approx(Y.mean(axis=1))
    assert parts[:, 1:].sum(axis=1) == pytest.approx(np.zeros(30))
    assert join_parts(parts[:, 0], parts[:, 1:]) == pytest.approx(Y)


def test_what_leaves_the_unit_interval_is_moved_back_with_its_differences():
    p = join_parts(np.array([0.9, 0.0, 0.5]), np.array([[0.2, -0.2], [-0.1, 0.1], [-0.9, 0.9]]))
    assert p == pytest.approx(np.array([[1.0, 0.6], [0.0, 0.2], [0.0, 1.0]]))
