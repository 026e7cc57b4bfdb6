from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from random_labels import labels_of

from prefill_router.baselines.classifiers import RidgePath, TargetLogistic, join_parts, split_labels
from prefill_router.errors import InputError
from prefill_router.extraction.activations import Activations
from prefill_router.features import BLOCK, TargetFeatures
from prefill_router.labels.splits import Split
from prefill_router.metrics import pairwise_brier
from prefill_router.recipe import Recipe, fit_recipe
from prefill_router.recipe.heads import HEADS, PENALTIES, predict_each_network

TRAIN, VALIDATION, TEST = np.arange(180), np.arange(180, 260), np.arange(260, 330)
SPLIT = Split(TRAIN, VALIDATION, TEST)
QUICK = Recipe(dimensions=(2, 5), n_seeds=2, keep=2)


@pytest.fixture(scope="module")
def world():
    """Return states of two encoders, labels of three targets, and groups of two queries each."""
    rng = np.random.default_rng(0)
    n, width = 330, 8
    latent = rng.normal(size=(n // 2, 2)).repeat(2, axis=0)
    told = latent @ rng.normal(size=(2, width)) + 0.3 * rng.normal(size=(n, width))
    states = {
        (0, "last"): np.full((n, width), 0.7),
        (0, "mean"): rng.normal(size=(n, width)) + 50,
        (1, "last"): told + 20,
        (1, "mean"): rng.normal(size=(n, width)),
    }
    other = {(2, "mean"): latent[:, ::-1] + rng.normal(size=(n, 2))}
    scores = np.column_stack([latent, latent.sum(axis=1)]) + 0.4 * rng.normal(size=(n, 3))
    Y = (scores > 0).astype(float)
    Y[rng.random((n, 3)) < 0.1] = np.nan
    encoders = {"main": Activations.from_arrays(states), "other": Activations.from_arrays(other)}
    return SimpleNamespace(activations=encoders, Y=Y, groups=np.arange(n) // 2)


def fit(world, head, **settings):
    recipe = replace(QUICK, head=head, **settings)
    labels = labels_of(correct=world.Y, group=world.groups)
    return fit_recipe(recipe, labels, world.activations, SPLIT)


@pytest.fixture(scope="module")
def fitted(world):
    return {head: fit(world, head) for head in (*HEADS, "auto")}


def test_the_trunk_predicts_what_the_trained_ensemble_predicts(world, fitted):
    it = fitted["trunk"]
    features = TargetFeatures(it.choices).fit(world.activations, TRAIN)
    x = np.hstack(features.transform(world.activations))
    assert it.model.n_features_in_ == x.shape[1]
    np.testing.assert_allclose(it.predictor.raw(it.features), it.model.predict_proba(x), atol=2e-5)
    each = predict_each_network(it.predictor.tensors, it.features)
    np.testing.assert_allclose(each, it.model.predict_each(x), atol=2e-5)


def test_logistic_is_the_best_of_regressions_on_the_same_features(world, fitted):
    it = fitted["logistic"].predictor
    X = it.features(it.read(world.activations))
    models = [TargetLogistic(C).fit(X[TRAIN], world.Y[TRAIN]) for C in (0.001, 0.01, 0.1, 1)]
    held = [np.nanmean((m.predict_proba(X[VALIDATION]) - world.Y[VALIDATION]) ** 2) for m in models]
    np.testing.assert_allclose(it.raw(X), models[np.argmin(held)].predict_proba(X), atol=1e-12)


def test_ridge_is_chosen_on_validation_rows_by_two_penalties(world, fitted):
    it = fitted["ridge"].predictor
    assert it.places == [
        *(("main", layer, pool) for layer in (0, 1) for pool in ("last", "mean")),
        ("other", 2, "mean"),
    ]
    X, Y = it.features(it.read(world.activations)), world.Y
    parts = RidgePath(PENALTIES).fit(X[TRAIN], split_labels(Y[TRAIN])).predict(X)
    best = min(parts, key=lambda p: np.nanmean(pairwise_brier(p[VALIDATION, 1:], Y[VALIDATION])))
    joined = [join_parts(part[:, 0], best[:, 1:]) for part in parts]
    expected = min(joined, key=lambda p: np.nanmean((p[VALIDATION] - Y[VALIDATION]) ** 2))
    np.testing.assert_allclose(it.raw(X), expected, atol=1e-9)


def test_auto_takes_the_least_pairwise_brier_score_on_validation_rows(world, fitted):
    scores = {}
    for head in HEADS:
        it = fitted[head].predictor
        raw = it.raw(it.features(it.read(world.activations, VALIDATION)))
        scores[head] = np.nanmean(pairwise_brier(raw, world.Y[VALIDATION]))
    auto = fitted["auto"]
    assert auto.scores == pytest.approx(scores, abs=1e-12)
    best = min(scores, key=scores.get)
    assert auto.predictor.head == best
    for name, tensor in fitted[best].predictor.tensors.items():
        np.testing.assert_array_equal(auto.predictor.tensors[name], tensor)


@pytest.mark.parametrize("head", HEADS)
def test_a_query_has_the_same_probabilities_whatever_comes_with_it(world, fitted, head):
    predictor = fitted[head].predictor
    p = predictor.predict_proba(world.activations)
    rows = np.random.default_rng(0).permutation(len(p))[: BLOCK + 7]
    np.testing.assert_array_equal(predictor.predict_proba(world.activations, rows), p[rows])
    one = predictor.predict_proba(world.activations, rows[:1])
    np.testing.assert_allclose(one, p[rows[:1]], atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_no_part_sees_rows_that_are_not_its_own(world, fitted, head):
    """Test rows change nothing; validation rows neither places nor components nor networks."""

    def changed(rows):
        other, Y, sign = {}, world.Y.copy(), np.ones((len(world.Y), 1), dtype=np.float32)
        Y[rows], sign[rows] = 1 - Y[rows], -3
        for name, held in world.activations.items():
            places = [(layer, pooling) for layer in held.layers for pooling in held.poolings]
            states = {place: held.states(*place) * sign for place in places}
            other[name] = Activations.from_arrays(states)
        return fit(SimpleNamespace(activations=other, Y=Y, groups=world.groups), head).predictor

    def equal(*parts):
        mine, theirs = (np.concatenate([np.ravel(x) for x in part]) for part in parts)
        return mine.shape == theirs.shape and (mine == theirs).all()

    mine, test, validation = fitted[head].predictor, changed(TEST), changed(VALIDATION)
    assert test.places == mine.places
    for it in (test, validation):
        assert equal(mine.centre + mine.projection, it.centre + it.projection)
    assert equal(mine.tensors.values(), test.tensors.values())
    assert head != "trunk" or equal(mine.tensors.values(), validation.tensors.values())
    assert equal(mine.calibration.coefficients, test.calibration.coefficients)
    assert not equal(mine.calibration.coefficients, validation.calibration.coefficients)


def test_layers_are_chosen_by_j_where_asked(world):
    one = SimpleNamespace(**{**vars(world), "activations": {"main": world.activations["main"]}})
    by_j = fit(one, "logistic", criterion="J").choices
    assert {(choice.layer, choice.pooling) for choice in by_j} == {(1, "last")}


def test_unknown_heads_and_criteria_are_refused():
    for wrong, hint in (({"head": "trunc"}, "'trunk'"), ({"criterion": "j"}, "mean 'J'")):
        with pytest.raises(InputError, match=f"is unknown. .*{hint}"):
            Recipe(**wrong)


def test_states_of_other_queries_are_refused(world):
    with pytest.raises(InputError, match="states of 330 queries and labels of 200 must be"):
        fit_recipe(QUICK, labels_of(200), world.activations, SPLIT)
