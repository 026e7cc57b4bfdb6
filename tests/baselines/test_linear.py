import numpy as np
from random_labels import labels, questions
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.baselines.linear import LengthOnly, TargetLogistic, TfidfLogistic


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
