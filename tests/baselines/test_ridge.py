import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from prefill_router.baselines.ridge import (
    KernelFeatures,
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
    Y = rng.normal(size=(60, 3)) + X[:, :3]
    return X, Y, rng.random(60)


@pytest.mark.parametrize("weighted", [False, True])
def test_every_penalty_is_a_ridge_regression_of_scikit_learn(data, weighted):
    X, Y, weights = data
    weights = weights if weighted else np.ones(len(X))
    penalties = (0.01, 1.0, 30.0)
    found = RidgePath(penalties).fit(X, Y, weights if weighted else None).predict(X)
    centred = X - np.average(X, axis=0, weights=weights)
    unit = (weights[:, None] * centred**2).sum() / X.shape[1]
    for penalty, predicted in zip(penalties, found, strict=True):
        ridge = Ridge(alpha=penalty * unit).fit(X, Y, sample_weight=weights)
        assert predicted == pytest.approx(ridge.predict(X), abs=1e-9)


def test_features_that_do_not_vary_predict_the_mean(data):
    X, Y, _ = data
    found = RidgePath([1.0]).fit(np.ones_like(X), Y).predict(X)
    assert found == pytest.approx(np.broadcast_to(Y.mean(axis=0), (1, *Y.shape)))


@pytest.mark.parametrize(("penalty", "weights"), [(0, None), (1, -np.ones(60)), (1, np.zeros(60))])
def test_impossible_settings_are_refused(data, penalty, weights):
    with pytest.raises(InputError, match="Penalties must be positive"):
        RidgePath([penalty]).fit(*data[:2], weights)


def test_landmarks_that_are_all_rows_give_the_kernel_itself(data):
    X = data[0]
    features = KernelFeatures(0.7, n_landmarks=len(X)).fit(X)
    z = features.transform(X)
    distances = cdist(X, X)
    median = np.median(distances[np.triu_indices(len(X), k=1)])
    assert features.scale_ == pytest.approx(0.7 * median)
    kernel = np.exp(-(distances**2) / (2 * (0.7 * median) ** 2))
    assert z @ z.T == pytest.approx(kernel, abs=1e-6)


def test_equal_rows_are_no_obstacle_to_a_kernel():
    z = KernelFeatures().fit(np.ones((5, 2))).transform(np.ones((3, 2)))
    assert z @ z.T == pytest.approx(np.ones((3, 3)))


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
