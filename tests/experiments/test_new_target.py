import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny_studies import relabelled

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import new_target
from prefill_router.experiments.new_target import (
    HEADS,
    NO_LABEL,
    OWN_HEAD,
    PAIRS,
    SHARED_AND_TRUNK,
    TUNING_DRAWS,
    evaluate_budget,
    label_budget,
    last_hidden,
    predict_new,
    what_is_known,
)
from prefill_router.trunk import SharedTrunkEnsemble


@pytest.mark.parametrize("n_resamples", [100, 251])  # 251: no resample is taken for the sample
def test_estimates_are_means_over_targets_and_draws(n_resamples):
    rng = np.random.default_rng(1)
    shape = (2, 3, 2, len(HEADS), 150)
    correct = (rng.random((150, 2)) < 0.5).astype(float)
    p = np.clip(0.3 * correct.T[:, None, None, None] + 0.7 * rng.random(shape), 0, 1)
    nothing, sizes, groups = rng.random((2, 150)), [10, 30], np.arange(150)
    found = evaluate_budget(p, nothing, correct, groups, sizes=sizes, n_resamples=n_resamples)
    assert len(found) == 2 * (2 * len(HEADS) + 1 + 2 * len(PAIRS))
    for s, size in enumerate(sizes):
        for h, head in enumerate(HEADS):
            areas = [
                roc_auc_score(correct[:, k], p[k, d, s, h]) for k in range(2) for d in range(3)
            ]
            row = one(found, metric="AUC", router=head, x=size)
            assert row.estimate == pytest.approx(np.mean(areas))
            assert row.lower < row.estimate < row.upper
            brier = ((p[:, :, s, h] - correct.T[:, None]) ** 2).mean()
            row = one(found, metric="Brier", router=head, x=size)
            assert row.estimate == pytest.approx(brier)
        difference = one(found, metric="AUC", router=SHARED_AND_TRUNK, versus=OWN_HEAD, x=size)
        ours, own = (
            one(found, metric="AUC", router=h, x=size) for h in (SHARED_AND_TRUNK, OWN_HEAD)
        )
        assert difference.estimate == pytest.approx(ours.estimate - own.estimate)
    areas = [roc_auc_score(correct[:, k], nothing[k]) for k in range(2)]
    assert one(found, metric="AUC", router=NO_LABEL, x=0).estimate == pytest.approx(np.mean(areas))


def test_intervals_cover_which_queries_were_labelled():
    """Where all queries are alike, draws alone differ; of two, a resample may hold one twice."""
    n = 60
    correct = np.tile([0.0, 1.0], n // 2)[:, None]
    p = np.empty((1, 2, 1, len(HEADS), n))
    p[:, 0], p[:, 1] = 0.5, 0.9
    pairs = np.arange(n) // 2  # a wrong and a right answer each
    found = evaluate_budget(p, p[:, 0, 0, 0], correct, pairs, sizes=[10], n_resamples=100)
    bounds = ["estimate", "lower", "upper"]
    best, worst = 0.5**2, (0.1**2 + 0.9**2) / 2
    heads = select(found, metric="Brier", router=list(HEADS))[bounds]
    np.testing.assert_allclose(heads, [[(best + worst) / 2, best, worst]] * len(HEADS))
    nothing = select(found, metric="Brier", router=NO_LABEL)[bounds]
    np.testing.assert_allclose(nothing, [[best] * 3])
    # heads learn from the same draws, and so are compared on the same
    differences = found[(found["metric"] == "Brier") & (found["versus"] != "")]
    np.testing.assert_allclose(differences[bounds], np.zeros((len(PAIRS), 3)), atol=1e-12)


def test_any_label_table_can_be_asked(study):
    found = label_budget(study, most=1)
    # there are fewer than 100 training queries
    assert select(found, metric="AUC", router=OWN_HEAD)["x"].tolist() == [10, 30]
    assert select(found)["estimate"].between(0, 1).all()
    assert label_budget(study, most=1).equals(found)


def test_what_is_told_beforehand_is_chosen_without_the_pseudo_new_targets_labels(
    study, monkeypatch
):
    """Each head is tuned on knowledge of the other targets, and of neither of the two."""
    asked, tuned = [], []

    def spy(study, others):
        asked.append(tuple(others))
        return what_is_known(study, others)

    class Head(new_target.NewHead):
        def predict(self, setting, known, rows, y, at):
            tuned.append((asked[-1], y.copy(), rows.copy()))
            return np.full(len(at), 0.5)

    monkeypatch.setattr(new_target, "what_is_known", spy)
    monkeypatch.setattr(new_target, "HEADS", {OWN_HEAD: Head((1.0,))})
    predict_new(study, 1, [10])
    assert asked == [(0, 2), (2,), (0,)]
    assert len(tuned) == 2 * TUNING_DRAWS + study.parameters.n_seeds
    for others, y, rows in tuned[: 2 * TUNING_DRAWS]:
        pseudo = ({0, 2} - set(others)).pop()
        np.testing.assert_array_equal(y, study.labels.correct[rows, pseudo])


def test_test_labels_never_influence_the_predictions(study):
    correct, test = study.labels.correct.copy(), study.splits[0].test
    correct[test] = 1 - correct[test]
    mine, theirs = (predict_new(s, 1, [10]) for s in (study, relabelled(study, correct=correct)))
    for name, before in mine.items():
        np.testing.assert_array_equal(before, theirs[name])


def test_what_is_known_does_not_come_from_the_new_target(study):
    before = what_is_known(study, [0, 2])
    correct = study.labels.correct.copy()
    correct[:, 1] = 1 - correct[:, 1]
    after = what_is_known(relabelled(study, correct=correct), [0, 2])
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
    after = what_is_known(relabelled(study, correct=correct), [0, 1])
    assert after.p[row, 0] == pytest.approx(before.p[row, 0], abs=1e-9)
    assert np.abs(after.p[train, 0] - before.p[train, 0]).max() > 1e-6


def test_the_last_hidden_layer_gives_the_networks_logits():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 4)), (rng.random((60, 2)) < 0.5).astype(float)
    ensemble = SharedTrunkEnsemble(1, 1, (8, 5), max_epochs=3).fit(X, Y)
    last = ensemble.networks_[0].linears[-1]
    logits = last_hidden(ensemble, X) @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(
        ensemble.predict_proba(X), 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6
    )
