import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.experiments import all_layers as it
from prefill_router.experiments.fold import FoldFit

TRAIN, HELD, TEST = np.arange(300), np.arange(300, 400), np.arange(400, 600)


@pytest.fixture
def planted(rng):
    """Target 0 is told by layer 2 alone, target 1 by layer 0; every tenth label is missing."""
    X = rng.normal(size=(600, 4, 6)).astype(np.float32)
    Y = np.column_stack([X[:, 2, 0] > 0, X[:, 0, 1] > 0]).astype(float)
    Y[::10, 1] = np.nan
    return X, Y


def test_a_mixture_finds_each_targets_layer(planted):
    X, Y = planted
    model = it.LayerMixture(1e-2).fit(X, Y, TRAIN, HELD)
    assert model.weights_.argmax(axis=1).tolist() == [2, 0]
    assert np.allclose(model.weights_.sum(axis=1), 1)
    p = model.predict_proba(X)
    for k in range(2):
        known = TEST[~np.isnan(Y[TEST, k])]
        assert roc_auc_score(Y[known, k], p[known, k]) > 0.9
    mixed = [sum(w * layer for w, layer in zip(model.weights_[1], x, strict=True)) for x in X[:5]]
    logits = np.array(mixed) @ model.coef_[1] + model.intercept_[1]
    assert np.allclose(p[:5, 1], 1 / (1 + np.exp(-logits)), atol=1e-6)
    q, held = p[HELD], Y[HELD]
    losses = -np.where(held == 1, np.log(q), np.log1p(-q))[~np.isnan(held)]
    assert model.validation_loss_ == pytest.approx(losses.mean(), abs=1e-5)


def test_a_mixture_is_repeatable_and_reads_no_other_labels(planted):
    X, Y = planted
    model = it.LayerMixture(1e-2, max_epochs=3).fit(X, Y, TRAIN, HELD)
    state, flipped = torch.get_rng_state(), Y.copy()
    flipped[TEST] = 1 - Y[TEST]
    other = it.LayerMixture(1e-2, max_epochs=3).fit(X, flipped, TRAIN, HELD)
    assert np.array_equal(model.coef_, other.coef_)
    assert np.array_equal(torch.get_rng_state(), state)
    again = it.LayerMixture(1e-2, 1, max_epochs=3).fit(X, Y, TRAIN, HELD)
    assert not np.array_equal(model.coef_, again.coef_)


def test_concatenated_features_are_those_of_scikit_learn(study, monkeypatch):
    seen = []

    def keep(recipe, x, Y, groups, rows):
        seen.append((recipe, x, rows))
        raise StopIteration

    monkeypatch.setattr(it, "train_networks", keep)
    fold = FoldFit(study, 0, [study.parameters.encoder])
    with pytest.raises(StopIteration):
        it.CONCATENATED.fit(fold)
    [(recipe, x, rows)] = seen
    assert (recipe.n_seeds, recipe.keep) == (5, 5) and np.array_equal(rows, fold.split.train)
    states = study.activations()
    assert states.layers == list(range(states.layers[-1] + 1))
    raw = np.hstack([states.states(layer, "mean") for layer in states.layers])
    n = x.shape[1]
    pca = PCA(n, svd_solver="full")
    want = make_pipeline(StandardScaler(), pca).fit(raw[rows]).transform(raw)
    lead = pca.explained_variance_[:5] / pca.explained_variance_[0] > 1e-3
    assert lead.all()
    assert np.allclose(abs(x[:, :5]), abs(want[:, :5]), atol=1e-3)


def test_the_learning_rate_is_chosen_on_validation_rows(study, monkeypatch):
    fold, tried = FoldFit(study, 0, [study.parameters.encoder]), []

    class Model(it.LayerMixture):
        def fit(self, X, Y, train, validation):
            tried.append(self.learning_rate)
            assert not set(train) & set(study.splits[0].test)
            assert np.array_equal(validation, study.splits[0].validation)
            self.validation_loss_ = abs(self.learning_rate - 1e-3)
            return self

        def predict_proba(self, X):
            return self.learning_rate

    monkeypatch.setattr(it, "LayerMixture", Model)
    assert it.MIXED.fit(fold) == 1e-3 and tried == list(it.RATES)
