import copy
from dataclasses import replace

import numpy as np
import pytest

from prefill_router.experiments.new_target_heads import last_hidden, what_is_known
from prefill_router.trunk import SharedTrunkEnsemble


def with_labels(study, correct):
    other = copy.copy(study)
    other.labels = replace(study.labels, correct=correct)
    return other


def test_what_is_known_does_not_come_from_the_new_target(study):
    before = what_is_known(study, [0, 2])
    correct = study.labels.correct.copy()
    correct[:, 1] = 1 - correct[:, 1]
    after = what_is_known(with_labels(study, correct), [0, 2])
    np.testing.assert_array_equal(before.p, after.p)
    np.testing.assert_array_equal(before.trunk, after.trunk)
    assert before.p.shape == (study.labels.n_queries, 2)
    train = study.splits[0].train
    np.testing.assert_allclose(before.trunk[train].mean(axis=0), 0, atol=1e-6)


def test_predictions_of_training_queries_are_not_from_heads_fitted_to_them(study):
    before, train = what_is_known(study, [0, 1]), study.splits[0].train
    correct = study.labels.correct.copy()
    row = train[0]
    correct[row, 0] = 1 - correct[row, 0]
    after = what_is_known(with_labels(study, correct), [0, 1])
    assert after.p[row, 0] == pytest.approx(before.p[row, 0], abs=1e-9)
    assert np.abs(after.p[train, 0] - before.p[train, 0]).max() > 1e-6


def test_the_last_hidden_layer_gives_the_networks_logits(study):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 4)), (rng.random((60, 2)) < 0.5).astype(float)
    ensemble = SharedTrunkEnsemble(1, 1, (8, 5), max_epochs=3).fit(X, Y)
    last = ensemble.networks_[0].linears[-1]
    logits = last_hidden(ensemble, X) @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(
        ensemble.predict_proba(X), 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6
    )
