import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny_studies import flipped

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import new_target as it
from prefill_router.trunk import SharedTrunkEnsemble


def test_estimates_are_means_over_targets_and_draws(study, monkeypatch):
    rng, test = np.random.default_rng(1), study.splits[0].test
    Y = study.labels.correct[test]
    p = rng.random((3, it.N_DRAWS, 1, len(it.HEADS), len(test)))
    p = 0.3 * Y.T[:, None, None, None] + 0.7 * p

    def predict(study, new, sizes):
        assert sizes == [30]  # there are fewer than 100 validation queries
        return {"p": p[new], "nothing": p[new, 0, 0, 0]}

    monkeypatch.setattr(it, "predict_new", predict)
    found = it.label_budget(study)
    assert len(found) == 2 * (len(it.HEADS) + len(it.PAIRS) + 2)
    auc = select(found, metric="AUC", versus=None).set_index(["router", "versus"])["estimate"]
    draws = range(it.N_DRAWS)
    for h, head in enumerate(it.HEADS):
        each = [roc_auc_score(Y[:, k], p[k, d, 0, h]) for k in range(3) for d in draws]
        assert auc[head, ""] == pytest.approx(np.mean(each))
        row, brier = one(found, metric="Brier", router=head), (p[:, :, 0, h] - Y.T[:, None]) ** 2
        assert row.estimate == pytest.approx(brier.mean()) and row.lower < row.estimate < row.upper
    for ours, other in it.PAIRS:
        assert auc[ours, other] == pytest.approx(auc[ours, ""] - auc[other, ""])
    area = np.mean([roc_auc_score(Y[:, k], p[k, 0, 0, 0]) for k in range(3)])
    assert auc[it.NO_LABEL, ""] == pytest.approx(area)


def test_the_new_targets_labels_are_of_validation_queries(study):
    split = study.splits[0]
    before = it.predict_new(study, 1, [30])
    assert before["p"].shape == (it.N_DRAWS, 1, len(it.HEADS), len(split.test))
    for rows in (split.test, split.train):
        after = it.predict_new(flipped(study, rows, 1), 1, [30])
        for name, values in before.items():
            np.testing.assert_array_equal(values, after[name])
    after = it.predict_new(flipped(study, split.validation, 1), 1, [30])
    assert (before["p"] != after["p"]).any(axis=(0, 1, 3)).all()  # of every head
    np.testing.assert_array_equal(before["nothing"], after["nothing"])


def test_a_head_on_features_does_not_depend_on_their_scale():
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(300, 4)), np.arange(100)
    y = (x[rows, 0] + rng.normal(size=100) > 0).astype(float)
    p = it.from_features(x, rows, y)
    np.testing.assert_allclose(it.from_features(50 * x, rows, y), p, atol=1e-3)
    assert roc_auc_score(x[100:, 0] > 0, p[100:]) > 0.9
    assert 0.5 < np.std(np.log(p / (1 - p))) < 2  # log-odds vary by about one


def test_the_last_hidden_layer_gives_the_networks_logits():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 4)), (rng.random((60, 2)) < 0.5).astype(float)
    ensemble = SharedTrunkEnsemble(1, 1, (8, 5), max_epochs=3).fit(X, Y)
    last = ensemble.networks_[0].linears[-1]
    weight, bias = (of.detach().numpy() for of in (last.weight, last.bias))
    p = 1 / (1 + np.exp(-it.last_hidden(ensemble, X) @ weight.T - bias))
    np.testing.assert_allclose(ensemble.predict_proba(X), p, rtol=1e-4, atol=1e-6)
