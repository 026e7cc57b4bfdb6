from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from prefill_router.evaluation.metrics import pairwise_brier
from prefill_router.experiments import challengers as challengers_module
from prefill_router.experiments.challengers import (
    CHALLENGERS,
    PENALTIES,
    challenger_names,
    chosen_parts,
    compose,
    ridge,
    stacked,
    zone_labels,
)
from prefill_router.experiments.routers import configurations, predictions
from prefill_router.labels.splits import Split

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("own_artifacts")


def made_up(n=300, d=6, seed=0):
    """A fold whose first half trains and whose second half validates."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    easy = X[:, :1] + rng.normal(size=(n, 1))
    Y = (easy + 0.5 * X[:, 1:4] + rng.normal(size=(n, 3)) > 0).astype(float)
    rows = np.arange(n)
    split = Split(rows[: n // 2], rows[n // 2 :], rows[:0])
    return SimpleNamespace(correct=Y, split=split, tried=[]), X


def test_zones_are_those_of_the_labels_there_are():
    nan = np.nan
    Y = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1], [1, nan, 1], [0, nan, 1], [nan, 1, nan]])
    shared, within = zone_labels(Y)
    assert np.array_equal(
        shared, [[1, 0], [0, 0], [0, 1], [1, 0], [0, 1], [nan, nan]], equal_nan=True
    )
    assert np.isnan(within[[0, 1, 3, 5]]).all()
    assert np.array_equal(within[[2, 4]], Y[[2, 4]], equal_nan=True)


def test_composed_probabilities_obey_the_law_of_total_probability():
    shared = np.array([[0.2, 0.5], [0.7, 0.6]])  # the second is cut to 0.3
    within = np.array([[0.4, 1.0], [0.5, 0.0]])
    assert compose(shared, within) == pytest.approx(np.array([[0.4, 0.7], [0.85, 0.7]]))


def test_means_and_deviations_are_chosen_each_by_its_own_score():
    it, X = made_up()
    score, p = ridge(it, X)
    train, v = it.split.train, it.split.validation
    labels = it.correct[train]
    centred = X[train] - X[train].mean(axis=0)
    unit = (centred**2).sum() / X.shape[1]
    fits = [Ridge(alpha=c * unit).fit(X[train], labels).predict(X) for c in PENALTIES]
    scores = [pairwise_brier(q[v], it.correct[v]).mean() for q in fits]
    assert score == pytest.approx(min(scores))
    deviations = fits[int(np.argmin(scores))]
    deviations = deviations - deviations.mean(axis=1, keepdims=True)
    inside = ((p > 0) & (p < 1)).all(axis=1)
    assert inside.any()
    assert (p - p.mean(axis=1, keepdims=True))[inside] == pytest.approx(deviations[inside])
    assert it.tried == [2 * len(PENALTIES)]


def test_the_choice_of_parts_looks_at_validation_rows_alone():
    it, X = made_up()
    parts = np.random.default_rng(1).normal(0, 0.1, size=(4, len(X), 4))
    before = chosen_parts(it, parts)
    it.correct[it.split.train] = 1 - it.correct[it.split.train]
    after = chosen_parts(it, parts)
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])


def test_rows_on_which_targets_agree_can_be_left_almost_out():
    it, X = made_up()
    train = it.split.train
    disagree = ~np.isnan(zone_labels(it.correct)[1]).all(axis=1)
    it.split = Split(train[disagree[train]], it.split.validation, it.split.test)
    alone = ridge(it, X)[0]
    it.split = Split(train, it.split.validation, it.split.test)
    assert ridge(it, X, outside=1e-9)[0] == pytest.approx(alone, abs=1e-5)
    assert ridge(it, X)[0] != pytest.approx(alone, abs=1e-5)


def test_layers_are_stacked_by_predictions_that_their_rows_had_no_part_in(monkeypatch):
    """Else the layer that overfits most would be trusted most."""
    it, X = made_up()
    it.layers = lambda n_columns: [X[:, :3], X[:, 3:]]
    group = np.arange(len(X)) // 5
    parameters = SimpleNamespace(inner_folds=5, seed=0)
    it.study = SimpleNamespace(parameters=parameters, labels=SimpleNamespace(group=group))
    monkeypatch.setattr(challengers_module, "PENALTIES", (1e-3,))  # so that none is chosen
    monkeypatch.setattr(challengers_module, "ridge", lambda it, X: (0.0, X))
    before = stacked(it)
    it.correct[0] = 1 - it.correct[0]
    after = stacked(it)
    assert before.shape == (len(X), 2 * (1 + 3))  # of each layer the mean and the deviations
    own = group == group[0]
    assert np.array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any(axis=0).all()


@pytest.mark.parametrize("name", CHALLENGERS)
def test_challengers_learn_and_predict_outside_training_rows_alone(study, name):
    by_fold = predictions(study, name, among=CHALLENGERS)
    for p, split in zip(by_fold, study.splits, strict=True):
        assert np.flatnonzero(np.isnan(p).any(axis=1)).tolist() == split.train.tolist()
        known = p[~np.isnan(p)]
        assert ((known >= 0) & (known <= 1)).all()
    assert configurations(study, name, CHALLENGERS) >= len(study.splits)
    p = study.over_folds(by_fold)
    Y = study.labels.correct[study.test_rows]
    assert min(roc_auc_score(Y[:, k], p[:, k]) for k in (0, 1)) > 0.6


def test_without_a_second_encoder_none_is_read(study):
    lone = SimpleNamespace(trained_encoders=["one"])
    assert not any("encoders" in name for name in challenger_names(lone))
    assert challenger_names(study) == list(CHALLENGERS)
