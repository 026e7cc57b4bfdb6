import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from prefill_router.router.added_targets import NewTargetHead


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=300)
    p = expit(shared[:, None] + rng.normal(size=(300, 3)))
    y = (rng.random(300) < expit(logit(p).mean(axis=1) - 0.5)).astype(float)
    return p, y


def test_without_labels_it_is_the_others_mean_logit(drawn):
    p, _ = drawn
    head = NewTargetHead().fit(p, np.full(len(p), np.nan))
    np.testing.assert_allclose(head.predict_proba(p), expit(logit(p).mean(axis=1)))
    alike = NewTargetHead().fit(p[:5], np.ones(5)).predict_proba(p)
    assert p.mean() < alike.mean() and alike.max() < 1  # nor are labels all alike a certainty


def test_where_the_others_balance_it_is_scikit_learns_ridge_logistic_regression(drawn):
    z = logit(drawn[0][:, 0])
    p, y = expit(np.column_stack([z, -z])), (np.arange(300) % 3 > 0).astype(float)
    y[z > 1] = 0
    design = np.column_stack([np.full(300, np.sqrt(2.0)), np.sqrt(0.7) * z, -np.sqrt(0.7) * z])
    theirs = LogisticRegression(C=1, fit_intercept=False, tol=1e-10, max_iter=10_000)
    expected = theirs.fit(design, y).predict_proba(design)[:, 1]
    head = NewTargetHead(ability=2.0, likeness=0.7).fit(p, y)
    np.testing.assert_allclose(head.predict_proba(p), expected, atol=1e-4)
    assert expected.std() > 0.1


def test_no_other_coefficients_are_more_probable(drawn):
    p, y = drawn
    head = NewTargetHead(ability=0.8, likeness=0.3).fit(p, y)
    z = logit(p.clip(1e-3, 1 - 1e-3))
    design, variances = np.column_stack([np.ones(len(z)), z]), np.array([0.8, 0.3, 0.3, 0.3])

    def energy(theta):
        scores = z.mean(axis=1) + design @ theta
        return np.log1p(np.exp(-(2 * y - 1) * scores)).sum() + (theta**2 / variances).sum() / 2

    theta, rng = np.r_[head.intercept_, head.coef_ - 1 / 3], np.random.default_rng(1)
    for size in np.repeat([1e-3, 1e-2, 1e-1], 20):
        assert energy(theta + size * rng.normal(size=4)) > energy(theta)


def test_rows_without_a_label_do_not_matter(drawn):
    p, y = drawn
    y[200:] = np.nan
    few, all_rows = NewTargetHead().fit(p[:200], y[:200]), NewTargetHead().fit(p, y)
    np.testing.assert_array_equal(few.predict_proba(p), all_rows.predict_proba(p))


def test_it_beats_a_head_of_its_own_where_labels_are_few():
    size, rng = 10, np.random.default_rng(2)
    x = rng.normal(size=(3000, 40))
    shared = x @ rng.normal(size=40) / 3
    p = expit(shared[:, None] + rng.normal(size=3) / 3)
    truth = expit(1.2 * shared - 0.3)
    y = (rng.random(3000) < truth).astype(float)
    leaning = NewTargetHead().fit(p[:size], y[:size]).predict_proba(p)
    own = LogisticRegression(C=1 / 40).fit(x[:size], y[:size]).predict_proba(x)[:, 1]
    assert ((leaning - truth) ** 2)[size:].mean() < ((own - truth) ** 2)[size:].mean() / 2
