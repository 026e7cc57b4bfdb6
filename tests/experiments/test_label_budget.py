import copy
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prefill_router.experiments import label_budget as label_budget_module
from prefill_router.experiments.label_budget import (
    NO_LABEL,
    PAIRS,
    TUNING_DRAWS,
    evaluate_budget,
    label_budget,
)
from prefill_router.experiments.new_target_heads import HEADS, OWN, SHARED, what_is_known


def test_estimates_are_means_over_targets_and_draws():
    rng = np.random.default_rng(1)
    shape = (2, 3, 2, len(HEADS), 150)
    correct = (rng.random((150, 2)) < 0.5).astype(float)
    p = np.clip(0.3 * correct.T[:, None, None, None] + 0.7 * rng.random(shape), 0, 1)
    nothing = rng.random((2, 150))
    found = evaluate_budget(p, nothing, correct, np.arange(150), sizes=[10, 30], n_resamples=100)
    rows = {(r.metric, r.router): r for r in found}
    assert len(rows) == len(found) == 2 * (2 * len(HEADS) + 1 + 2 * len(PAIRS))
    heads = list(HEADS)
    for s, size in enumerate((10, 30)):
        for h, head in enumerate(heads):
            areas = [
                roc_auc_score(correct[:, k], p[k, d, s, h]) for k in range(2) for d in range(3)
            ]
            row = rows["AUC", f"{head}, {size} labels"]
            assert row.estimate == pytest.approx(np.mean(areas))
            assert row.lower < row.estimate < row.upper
            brier = ((p[:, :, s, h] - correct.T[:, None]) ** 2).mean()
            assert rows["Brier", f"{head}, {size} labels"].estimate == pytest.approx(brier)
        difference = rows["AUC difference", f"{SHARED} - {OWN}, {size} labels"].estimate
        ours, own = (rows["AUC", f"{name}, {size} labels"].estimate for name in (SHARED, OWN))
        assert difference == pytest.approx(ours - own)
    areas = [roc_auc_score(correct[:, k], nothing[k]) for k in range(2)]
    assert rows["AUC", NO_LABEL].estimate == pytest.approx(np.mean(areas))


def test_intervals_cover_which_queries_were_labelled():
    """Where all queries are alike, draws alone differ; of two, a resample may hold one twice."""
    shape, n = (1, 2, 1, len(HEADS), 60), 60
    correct = np.tile([0.0, 1.0], n // 2)[:, None]
    p = np.empty(shape)
    p[:, 0], p[:, 1] = 0.5, 0.9
    pairs = np.arange(n) // 2  # a wrong and a right answer each
    found = evaluate_budget(p, p[:, 0, 0, 0], correct, pairs, sizes=[10], n_resamples=100)
    rows = {r.router: (r.estimate, r.lower, r.upper) for r in found if r.metric == "Brier"}
    best, worst = 0.5**2, (0.1**2 + 0.9**2) / 2
    for head in HEADS:
        assert rows[f"{head}, 10 labels"] == pytest.approx(((best + worst) / 2, best, worst))
    assert rows[NO_LABEL] == pytest.approx((best, best, best))
    # heads learn from the same draws, and so are compared on the same
    differences = [(r.lower, r.upper) for r in found if r.metric == "Brier difference"]
    np.testing.assert_allclose(differences, np.zeros((len(PAIRS), 2)), atol=1e-12)


def test_any_label_table_can_be_asked(study):
    found = label_budget(study, most=1)
    sizes = {r.router.rsplit(", ", 1)[1] for r in found if r.router.startswith(OWN)}
    assert sizes == {"10 labels", "30 labels"}  # there are fewer than 100 training queries
    assert all(0 <= r.estimate <= 1 for r in found if r.metric in ("AUC", "Brier"))
    assert label_budget(study, most=1) == found


def test_what_is_told_beforehand_is_chosen_without_the_pseudo_new_targets_labels(
    study, monkeypatch
):
    """Each head is tuned on knowledge of the other targets, and of neither of the two."""
    asked, tuned = [], []

    def spy(study, others):
        asked.append(tuple(others))
        return what_is_known(study, others)

    def head(known, rows, y, at):
        tuned.append((asked[-1], y.tobytes(), rows.tobytes()))
        return np.full(len(at), 0.5)

    monkeypatch.setattr(label_budget_module, "what_is_known", spy)
    monkeypatch.setattr(label_budget_module, "HEADS", {OWN: [head]})
    label_budget_module._predict_new(study, 1, [10])
    assert asked == [(0, 2), (2,), (0,)]
    Y = study.labels.correct
    for others, y, rows in tuned[: 2 * TUNING_DRAWS]:
        rows = np.frombuffer(rows, dtype=int)
        pseudo = ({0, 2} - set(others)).pop()
        assert np.frombuffer(y).tolist() == Y[rows, pseudo].tolist()


def test_test_labels_never_influence_the_predictions(study):
    correct, test = study.labels.correct.copy(), study.splits[0].test
    correct[test] = 1 - correct[test]
    flipped = copy.copy(study)
    flipped.labels = replace(study.labels, correct=correct)
    mine, theirs = (label_budget_module._predict_new(s, 1, [10]) for s in (study, flipped))
    for before, after in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(before, after)
