import numpy as np
import pytest
from random_labels import labels, questions
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.baselines import classifiers
from prefill_router.baselines.classifiers import LengthOnly, RidgePath, TargetTrees, TfidfLogistic
from prefill_router.errors import InputError


def test_length_only_equals_scikit_learn(rng):
    lengths, Y = rng.integers(1, 200, size=(80, 2)), labels(rng)
    p = LengthOnly(C=0.5).fit(lengths, Y).predict_proba(lengths)
    X = StandardScaler().fit_transform(np.hstack([lengths, np.log(lengths + 1)]))
    for k in range(3):
        known = ~np.isnan(Y[:, k])
        reference = LogisticRegression(C=0.5, tol=1e-9).fit(X[known], Y[known, k])
        np.testing.assert_allclose(p[:, k], reference.predict_proba(X)[:, 1], atol=1e-4)


def test_tfidf_equals_a_scikit_learn_pipeline_on_complete_labels(rng):
    texts, Y = questions(rng), labels(rng, missing=0)
    p = TfidfLogistic(C=3).fit(texts, Y).predict_proba(texts[:9])
    for k in range(3):
        pattern = r"\w+|[^\w\s]"
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=pattern)
        reference = make_pipeline(words, LogisticRegression(C=3)).fit(texts, Y[:, k])
        np.testing.assert_allclose(p[:, k], reference.predict_proba(texts[:9])[:, 1], atol=1e-3)


def test_trees_of_each_target_equal_scikit_learn_on_the_rows_labelled_for_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    Y = np.column_stack([X[:, 0] * X[:, 1] > 0, X[:, 2] > 0.5]).astype(float)
    Y[rng.random(Y.shape) < 0.3] = np.nan
    p = TargetTrees(20, 4, 0.2).fit(X, Y).predict_proba(X)
    for k, y in enumerate(Y.T):
        known = ~np.isnan(y)
        settings = {"max_iter": 20, "max_leaf_nodes": 4, "learning_rate": 0.2}
        reference = HistGradientBoostingClassifier(**settings).fit(X[known], y[known])
        np.testing.assert_allclose(p[:, k], reference.predict_proba(X)[:, 1])
    assert ((p[:, 0] > 0.5) == (X[:, 0] * X[:, 1] > 0)).mean() > 0.9  # no line can do that


# -- ridge regression -------------------------------------------------------


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


def test_edges_of_the_path(data):
    with pytest.raises(InputError, match="must all be positive"):
        RidgePath([1.0, 0.0]).fit(*data)
    X, Y = data
    found = RidgePath([1.0]).fit(np.ones_like(X), Y).predict(X)  # no feature varies
    assert found == pytest.approx(np.broadcast_to(Y.mean(axis=0), (1, *Y.shape)))


def test_missing_labels_deviate_as_their_target_does():
    Y = np.array([[1, np.nan, 0], [np.nan, np.nan, np.nan], [1, 1, 0]])
    accuracy = np.array([0.8, 0.6, 0.4])
    shift = ((1 - 0.8) + (0 - 0.4)) / 2
    want = np.array([[1, 0.6 + shift, 0], accuracy, [1, 1, 0]])
    assert classifiers.completed(Y, accuracy) == pytest.approx(want)


def test_parts_of_labels_add_up_again_and_stay_within_the_unit_interval():
    Y = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(float)
    parts = classifiers.split_labels(Y)
    assert parts[:, 0] == pytest.approx(Y.mean(axis=1))
    assert parts[:, 1:].sum(axis=1) == pytest.approx(np.zeros(30))
    assert classifiers.join_parts(parts[:, 0], parts[:, 1:]) == pytest.approx(Y)
    deviations = np.array([[0.2, -0.2], [-0.1, 0.1], [-0.9, 0.9]])
    p = classifiers.join_parts(np.array([0.9, 0.0, 0.5]), deviations)
    assert p == pytest.approx(np.array([[1.0, 0.6], [0.0, 0.2], [0.0, 1.0]]))
