import numpy as np
from random_labels import labels, questions
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.baselines.classifiers import (
    LengthOnly,
    TargetLogistic,
    TargetTrees,
    TfidfLogistic,
)


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


def test_tfidf_reads_single_digits_and_symbols():
    texts = np.array(["7 + 3", "7 > 3", "8 + 3", "8 > 3"] * 10, dtype=object)
    Y = np.column_stack([["+" in text for text in texts], ["7" in text for text in texts]])
    p = TfidfLogistic(C=100).fit(texts, Y.astype(float)).predict_proba(texts)
    np.testing.assert_array_equal(p > 0.5, Y)


def test_target_logistic_equals_scikit_learn(rng):
    X, Y = rng.normal(size=(80, 5)), labels(rng)
    p = TargetLogistic(C=0.1).fit(X, Y).predict_proba(X)
    for k in range(3):
        known = ~np.isnan(Y[:, k])
        reference = LogisticRegression(C=0.1, tol=1e-9).fit(X[known], Y[known, k])
        np.testing.assert_allclose(p[:, k], reference.predict_proba(X)[:, 1], atol=1e-4)


def test_trees_of_each_target_equal_scikit_learn_on_the_rows_labelled_for_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    Y = np.column_stack([X[:, 0] * X[:, 1] > 0, X[:, 2] > 0.5]).astype(float)
    Y[rng.random(Y.shape) < 0.3] = np.nan
    p = TargetTrees(20, 4, 0.2).fit(X, Y).predict_proba(X)
    for k, y in enumerate(Y.T):
        known = ~np.isnan(y)
        reference = HistGradientBoostingClassifier(
            max_iter=20, max_leaf_nodes=4, learning_rate=0.2, early_stopping=False
        ).fit(X[known], y[known])
        np.testing.assert_allclose(p[:, k], reference.predict_proba(X)[:, 1])
    assert ((p[:, 0] > 0.5) == (X[:, 0] * X[:, 1] > 0)).mean() > 0.9  # no line can do that


def test_trees_of_a_target_of_one_class_gets_its_smoothed_base_rate():
    Y = np.array([[1, np.nan], [1, np.nan], [np.nan, np.nan]])
    p = TargetTrees().fit(np.eye(3), Y).predict_proba(np.eye(3))
    np.testing.assert_allclose(p, [[3 / 4, 1 / 2]] * 3)
