import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from prefill_router.router.added_targets import NewTargetHead


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5)) * 3
    p = expit(X @ rng.normal(size=(5, 3)) / 3)
    y = (rng.random(300) < expit(logit(p).mean(axis=1) - 0.5 + X[:, 0])).astype(float)
    return p, X, y


def test_without_labels_it_is_the_others_mean_logit(drawn):
    p, X, _ = drawn
    head = NewTargetHead().fit(p, np.full(len(p), np.nan), X)
    np.testing.assert_allclose(head.predict_proba(p, X), expit(logit(p).mean(axis=1)))
    alike = NewTargetHead().fit(p[:5], np.ones(5), X[:5]).predict_proba(p, X)
    assert p.mean() < alike.mean() and alike.max() < 1  # nor are labels all alike a certainty


def test_where_the_others_say_nothing_it_is_scikit_learns_ridge_logistic_regression(drawn):
    _, X, y = drawn
    even = np.full((len(X), 2), 0.5)
    head = NewTargetHead(ability=2.0, own=0.7).fit(even, y, X)
    centred = X - X.mean(axis=0)
    scale = np.sqrt(0.7 / (centred**2).sum(axis=1).mean())
    design = np.column_stack([np.full(len(X), np.sqrt(2.0)), centred * scale])
    theirs = LogisticRegression(C=1, fit_intercept=False, tol=1e-10, max_iter=10_000)
    expected = theirs.fit(design, y).predict_proba(design)[:, 1]
    np.testing.assert_allclose(head.predict_proba(even, X), expected, atol=1e-4)
    assert expected.std() > 0.2


def test_no_other_coefficients_are_more_probable(drawn):
    p, X, y = drawn
    head = NewTargetHead(ability=0.8, likeness=0.3, own=1.5).fit(p, y, X)
    z, centred = logit(p.clip(1e-3, 1 - 1e-3)), X - X.mean(axis=0)
    design = np.column_stack([np.ones(len(z)), z, centred])
    variances = np.repeat([0.8, 0.3, 1.5 / (centred**2).sum(axis=1).mean()], [1, 3, 5])

    def energy(theta):
        scores = z.mean(axis=1) + design @ theta
        return np.log1p(np.exp(-(2 * y - 1) * scores)).sum() + (theta**2 / variances).sum() / 2

    a = head.intercept_ + X.mean(axis=0) @ head.coef_
    theta = np.r_[a, head.coef_others_ - 1 / 3, head.coef_]
    rng = np.random.default_rng(1)
    for size in np.repeat([1e-3, 1e-2, 1e-1], 20):
        assert energy(theta + size * rng.normal(size=9)) > energy(theta)


def test_scale_of_features_and_rows_without_a_label_do_not_matter(drawn):
    p, X, y = drawn
    y[200:] = np.nan
    head = NewTargetHead().fit(p[:200], y[:200], X[:200])
    other = NewTargetHead().fit(p, y, 1000 * X)
    np.testing.assert_allclose(
        other.predict_proba(p, 1000 * X), head.predict_proba(p, X), atol=1e-4
    )


def test_it_beats_a_head_of_its_own_where_labels_are_few():
    size, rng = 10, np.random.default_rng(2)
    X = rng.normal(size=(3000, 40))
    shared = X @ rng.normal(size=40) / 3
    p = expit(shared[:, None] + rng.normal(size=3) / 3)
    truth = expit(1.2 * shared - 0.3)
    y = (rng.random(3000) < truth).astype(float)
    leaning = NewTargetHead().fit(p[:size], y[:size], X[:size]).predict_proba(p, X)
    alone = NewTargetHead().fit(np.full_like(p, 0.5)[:size], y[:size], X[:size])
    own = alone.predict_proba(np.full_like(p, 0.5), X)
    assert ((leaning - truth) ** 2)[size:].mean() < ((own - truth) ** 2)[size:].mean() / 2
