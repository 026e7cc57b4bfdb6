import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny_studies import flipped

from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import new_target as it
from prefill_router.trunk import SharedTrunkEnsemble

BOUNDS = ["estimate", "lower", "upper"]


def test_estimates_are_means_over_targets_and_draws():
    rng = np.random.default_rng(1)
    shape = (2, 3, 2, len(it.HEADS), 150)
    correct = (rng.random((150, 2)) < 0.5).astype(float)
    p = np.clip(0.3 * correct.T[:, None, None, None] + 0.7 * rng.random(shape), 0, 1)
    # with 251 resamples none is taken for the sample
    found = it.evaluate_budget(Evaluation(correct, n_resamples=251), p, p[:, 0, 0, 0], [10, 30])
    assert len(found) == 2 * (2 * len(it.HEADS) + 1 + 2 * len(it.PAIRS))
    for s, size in enumerate((10, 30)):
        auc = select(found, metric="AUC", x=size, versus=None).set_index(["router", "versus"])
        auc, briers = auc["estimate"], select(found, metric="Brier", x=size).set_index("router")
        for h, head in enumerate(it.HEADS):
            each = [roc_auc_score(correct[:, k], p[k, d, s, h]) for k in range(2) for d in range(3)]
            assert auc[head, ""] == pytest.approx(np.mean(each))
            row, brier = briers.loc[head], ((p[:, :, s, h] - correct.T[:, None]) ** 2).mean()
            assert row.estimate == pytest.approx(brier) and row.lower < brier < row.upper
        for ours, other in it.PAIRS:
            assert auc[ours, other] == pytest.approx(auc[ours, ""] - auc[other, ""])
    area = np.mean([roc_auc_score(correct[:, k], p[k, 0, 0, 0]) for k in range(2)])
    assert one(found, metric="AUC", router=it.NO_LABEL, x=0).estimate == pytest.approx(area)


def test_intervals_cover_which_queries_were_labelled():
    """Where all queries are alike, draws alone differ; of two, a resample may hold one twice."""
    n = 60
    p = np.empty((1, 2, 1, len(it.HEADS), n))
    p[:, 0], p[:, 1] = 0.5, 0.9
    pairs = np.arange(n) // 2  # a wrong and a right answer each
    at = Evaluation(np.tile([0.0, 1.0], n // 2)[:, None], groups=pairs, n_resamples=100)
    found = select(it.evaluate_budget(at, p, p[:, 0, 0, 0], [10]), metric="Brier", versus=None)
    best, worst = 0.5**2, (0.1**2 + 0.9**2) / 2
    heads = select(found, router=list(it.HEADS))[BOUNDS]
    np.testing.assert_allclose(heads, [[(best + worst) / 2, best, worst]] * len(it.HEADS))
    np.testing.assert_allclose(select(found, router=it.NO_LABEL)[BOUNDS], [[best] * 3])
    # heads learn from the same draws, and so are compared on the same
    differences = found[found["versus"] != ""][BOUNDS]
    np.testing.assert_allclose(differences, np.zeros((len(it.PAIRS), 3)), atol=1e-12)


def test_any_label_table_can_be_asked(study):
    found = it.label_budget(study, most=1)
    # there are fewer than 100 training queries
    assert select(found, metric="AUC", router=it.OWN_HEAD)["x"].tolist() == [10, 30]
    assert select(found)["estimate"].between(0, 1).all()
    assert it.label_budget(study, most=1).equals(found)


def test_heads_are_tuned_on_knowledge_of_neither_new_target(study, monkeypatch):
    asked, tuned, what_is_known = [], [], it.what_is_known

    def spy(study, others):
        asked.append(tuple(others))
        return what_is_known(study, others)

    class Head(it.NewHead):
        def predict(self, setting, known, rows, y, at):
            tuned.append((asked[-1], y.copy(), rows.copy()))
            return np.full(len(at), 0.5)

    monkeypatch.setattr(it, "what_is_known", spy)
    monkeypatch.setattr(it, "HEADS", {it.OWN_HEAD: Head((1.0,))})
    it.predict_new(study, 1, [10])
    assert asked == [(0, 2), (2,), (0,)]
    assert len(tuned) == 2 * it.TUNING_DRAWS + study.parameters.n_seeds
    for others, y, rows in tuned[: 2 * it.TUNING_DRAWS]:
        pseudo = ({0, 2} - set(others)).pop()
        np.testing.assert_array_equal(y, study.labels.correct[rows, pseudo])


def test_test_labels_never_influence_the_predictions(study):
    other = flipped(study, study.splits[0].test)
    mine, theirs = (it.predict_new(s, 1, [10]) for s in (study, other))
    for name, before in mine.items():
        np.testing.assert_array_equal(before, theirs[name])


def test_what_is_known_is_of_the_others_and_out_of_fold(study):
    before, train = it.what_is_known(study, [0, 2]), study.splits[0].train
    after = it.what_is_known(flipped(study, slice(None), 1), [0, 2])
    np.testing.assert_array_equal(before.p, after.p)
    np.testing.assert_array_equal(before.trunk, after.trunk)
    assert before.p.shape == (study.labels.n_queries, 2)
    np.testing.assert_allclose(before.trunk[train].mean(axis=0), 0, atol=1e-6)
    # a training query's own label is not in the prediction of it, but in those of others
    after = it.what_is_known(flipped(study, train[0], 0), [0, 2])
    assert after.p[train[0], 0] == pytest.approx(before.p[train[0], 0], abs=1e-9)
    assert np.abs(after.p[train, 0] - before.p[train, 0]).max() > 1e-6


def test_the_last_hidden_layer_gives_the_networks_logits():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 4)), (rng.random((60, 2)) < 0.5).astype(float)
    ensemble = SharedTrunkEnsemble(1, 1, (8, 5), max_epochs=3).fit(X, Y)
    last = ensemble.networks_[0].linears[-1]
    weight, bias = (of.detach().numpy() for of in (last.weight, last.bias))
    p = 1 / (1 + np.exp(-it.last_hidden(ensemble, X) @ weight.T - bias))
    np.testing.assert_allclose(ensemble.predict_proba(X), p, rtol=1e-4, atol=1e-6)
