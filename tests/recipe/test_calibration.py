import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from prefill_router.metrics import expected_calibration_error
from prefill_router.recipe.calibration import FAMILIES, cross_fit, fit_calibration


def draws(n, transform, seed=0):
    """Return probabilities p and labels that are right with probability transform(p)."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, size=(n, 1))
    return p, (rng.random((n, 1)) < transform(p)).astype(float)


@pytest.mark.parametrize(
    ("family", "inputs"),
    [("platt", logit), ("beta", lambda p: np.hstack([np.log(p), -np.log1p(-p)]))],
)
def test_platt_and_beta_are_logistic_regressions_on_logarithms(family, inputs):
    p, y = draws(3000, lambda p: expit(1.5 * np.log(p) - 0.4 * np.log1p(-p) + 0.8))
    fitted = fit_calibration(p, y, families=[family])
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(inputs(p), y[:, 0])
    expected = model.predict_proba(inputs(p))[:, 1]
    np.testing.assert_allclose(fitted.apply(p)[:, 0], expected, atol=1e-4)


def test_isotonic_steps_are_those_of_scikit_learn():
    p, y = draws(2000, lambda p: (p > 0.5) * 0.8)
    fitted = fit_calibration(p, y, families=["isotonic"])
    model = IsotonicRegression(out_of_bounds="clip").fit(p[:, 0], y[:, 0])
    new = np.linspace(0, 1, 101)[:, None]
    np.testing.assert_allclose(fitted.apply(new)[:, 0], model.predict(new[:, 0]), atol=1e-12)


def test_what_is_calibrated_stays_and_what_is_not_is_mended():
    good, bad = draws(4000, lambda p: p, 1), draws(4000, lambda p: expit(2 * logit(p) + 1), 2)
    p, y = (np.hstack(pair) for pair in zip(good, bad, strict=True))
    fitted = fit_calibration(p, y)
    assert fitted.families[0] == "identity" and fitted.families[1] != "identity"
    np.testing.assert_allclose(fitted.apply(p)[:, 0], p[:, 0], atol=1e-9)
    new, truth = draws(20_000, lambda p: expit(2 * logit(p) + 1), 3)
    both = np.hstack([new, new])
    after = expected_calibration_error(fitted.apply(both)[:, 1:], truth)[0]
    assert after < expected_calibration_error(new, truth)[0] / 3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_map_keeps_the_order(family):
    p, y = draws(1500, lambda p: 1 - p)  # the worst case: the best increasing map is flat
    fitted = fit_calibration(p, y, families=[family])
    values = fitted.apply(np.sort(p, axis=0))[:, 0]
    assert (np.diff(values) >= -1e-12).all() and (values >= 0).all() and (values <= 1).all()


def test_few_alike_or_missing_labels_change_nothing():
    rng = np.random.default_rng(0)
    p = rng.random((30, 3))
    y = np.column_stack([np.ones(30), np.full(30, np.nan), rng.random(30) < 0.5])
    fitted = fit_calibration(p, y, groups=np.arange(30) // 10)
    assert fitted.families == ["identity"] * 3
    np.testing.assert_allclose(fitted.apply(p), np.clip(p, 1e-6, 1 - 1e-6))
    assert np.isfinite(fitted.apply(np.array([[0.0, 1.0, 0.5]]))).all()


def test_queries_asked_again_in_their_group_tell_nothing_more():
    p, y = draws(1100, lambda p: p)  # calibrated, and enough for steps that follow noise
    once = fit_calibration(p, y)
    again = [np.repeat(values, 3, axis=0) for values in (p, y)]
    found = fit_calibration(*again, groups=np.repeat(np.arange(len(p)), 3))
    assert found.families == once.families == ["identity"]


def test_cross_fitting_is_that_of_scikit_learn():
    p, y = draws(400, lambda p: p**2)
    groups, folds = np.arange(400) // 4, GroupKFold(5, shuffle=True, random_state=3)
    model = LogisticRegression(C=np.inf, tol=1e-10)
    how = {"groups": groups, "cv": folds, "method": "predict_proba"}
    expected = cross_val_predict(model, logit(p), y[:, 0], **how)[:, 1]
    np.testing.assert_allclose(cross_fit(["platt"], p, y, groups, 3)[:, 0], expected, atol=1e-4)
    np.testing.assert_array_equal(cross_fit(["platt"], p, y, groups // 25), p)  # four groups


@pytest.mark.parametrize("family", FAMILIES)
def test_no_label_has_a_part_in_its_own_probability(family):
    p, y = draws(300, lambda p: p)
    groups, other = np.arange(300) // 3, y.copy()
    other[groups == 7] = 1 - other[groups == 7]
    other[groups == 8] = np.nan
    before, after = (cross_fit([family], p, labels, groups) for labels in (y, other))
    np.testing.assert_array_equal(before[groups == 7], after[groups == 7])
    if family != "identity":
        assert not np.array_equal(before, after)


def test_steps_that_follow_noise_show_it_only_on_their_own_rows():
    def agreement(q, y):
        return np.mean((q - q.mean()) * (y - y.mean()))

    found = []
    for seed in range(10):
        p, y = draws(1200, lambda p: 0.5 + 0 * p, seed)
        own = fit_calibration(p, y, families=["isotonic"]).apply(p)
        held = cross_fit(["isotonic"], p, y, np.arange(1200))
        found.append([agreement(own, y), agreement(held, y)])
    (own, held), error = np.mean(found, axis=0), np.std(found, axis=0)[1] / 3
    assert own > 0.0005 and held < 2 * error
