import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_studies
import torch
from sklearn.linear_model import LogisticRegression

from prefill_router.experiments import feature_sets
from prefill_router.experiments.feature_sets import (
    ALL,
    BY_J,
    LAST,
    LOGISTIC,
    ONE,
    PAIRED,
    PENALTIES,
    SEVERAL,
    TRUNK,
    feature_candidates,
    feature_predictions,
    layer_widths,
    tuned_logistic,
)
from prefill_router.experiments.fold import Fold
from prefill_router.features.selection import choose
from prefill_router.probes.decomposition import decompose

torch.set_num_threads(1)

pytestmark = pytest.mark.usefixtures("own_artifacts")


def test_sets_are_what_they_are_called(study):
    main, both = study.parameters.encoder, study.trained_encoders
    split, states = study.splits[1], study.activations(main)
    (one,) = feature_candidates(study, ONE, [main], 1)
    for features, expected in zip(one, Fold(study, 1, [main]).features_by_target(), strict=True):
        np.testing.assert_array_equal(features, expected)
    (last,) = feature_candidates(study, LAST, [main], 1)
    table = study.layer_auc(main).query("fold == 1 and layer == 3")
    for features, choice in zip(last, choose(table), strict=True):
        reduction = decompose(states.states(3, choice.pooling)[split.train], choice.dimension)
        expected = reduction.transform(states.states(3, choice.pooling))
        np.testing.assert_allclose(features, expected, atol=1e-4)
    (by_j,) = feature_candidates(study, BY_J, [main], 1)
    probes = study.probes(main).query("fold == 1 and not constant")
    for k, features in enumerate(by_j):
        best = probes.loc[probes[probes["target"] == k]["J"].idxmax()]
        at = states.states(int(best["layer"]), best["pooling"])
        expected = decompose(at[split.train], features.shape[1]).transform(at)
        np.testing.assert_allclose(features, expected, atol=1e-4)
    widths = layer_widths(study, main)
    every = feature_candidates(study, ALL, [main], 1)
    n_places = len(states.layers) * len(states.poolings)
    assert widths == [2, 6]
    assert [x.shape[1] for (x,) in every] == [n_places * width for width in widths]
    ((several,),) = feature_candidates(study, SEVERAL, both, 1)
    own = [Fold(study, 1, [e]).distinct_features() for e in both]
    np.testing.assert_array_equal(several, np.hstack(own))
    assert len(feature_candidates(study, PAIRED, both, 1)[0]) == study.labels.n_targets


def test_a_set_is_the_same_whatever_criterion_the_study_has(study):
    by_j, main = copy.copy(study), study.parameters.encoder
    by_j.parameters = study.parameters.model_copy(update={"criterion": "J"})
    assert by_j.choices([main], 0) != study.choices([main], 0)
    for features, encoders in ((ONE, [main]), (BY_J, [main]), (SEVERAL, study.trained_encoders)):
        (mine,), (theirs,) = (feature_candidates(s, features, encoders, 0) for s in (study, by_j))
        np.testing.assert_array_equal(np.hstack(mine), np.hstack(theirs))


def test_logistic_heads_are_scikit_learns_and_validation_chooses():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(300, 3))
    noise = rng.normal(size=(300, 4))
    Y = (latent[:, :2] + 0.5 * rng.normal(size=(300, 2)) > 0).astype(float)
    Y[::7, 1] = np.nan
    train, validation = np.arange(150), np.arange(150, 220)
    collinear = np.hstack([latent, latent @ rng.normal(size=(3, 2))])
    candidates = [[noise], [collinear]]
    p, best = tuned_logistic(candidates, Y, train, validation)
    assert best == 1
    for k in range(2):
        known = train[~np.isnan(Y[train, k])]
        scored = {}
        for (X,) in candidates:
            for C in PENALTIES:
                model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
                q = model.fit(X[known], Y[known, k]).predict_proba(X)[:, 1]
                scored[np.nanmean((q[validation] - Y[validation, k]) ** 2)] = q
        np.testing.assert_allclose(p[:, k], scored[min(scored)], atol=1e-5)


def test_constant_features_and_a_target_without_validation_labels():
    Y = np.column_stack([np.arange(40) % 2, np.arange(40) % 3 == 0]).astype(float)
    Y[20:30, 1] = np.nan
    p, _ = tuned_logistic([[np.zeros((40, 3))]], Y, np.arange(20), np.arange(20, 30))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p, p[:1].repeat(40, axis=0))


def test_labels_of_test_rows_change_no_prediction(tmp_path):
    """And training rows are not predicted, so that nobody can report them."""

    def predicted(directory, spoil):
        study = tiny_studies.study(directory)
        split = study.splits[0]
        if spoil:
            correct = study.labels.correct.copy()
            correct[split.test] = 1 - correct[split.test]
            study.labels = replace(study.labels, correct=correct)
        main = [study.parameters.encoder]
        p = [feature_predictions(study, name, main, LOGISTIC)[0] for name in (ONE, ALL, BY_J)]
        assert all(np.isnan(q[split.train]).all() for q in p)
        assert all(np.isfinite(q[split.test]).all() for q in p)
        return np.array(p)

    before = predicted(tmp_path / "before", spoil=False)
    np.testing.assert_array_equal(predicted(tmp_path / "after", spoil=True), before)


def test_the_trunk_reads_the_candidate_that_validation_prefers(study, monkeypatch):
    main, seen = study.parameters.encoder, []

    def trunk(self, x, shuffle=False):
        seen.append(x)
        return np.full(study.labels.correct.shape, 0.5)

    monkeypatch.setattr(feature_sets.FoldFit, "trunk", trunk)
    monkeypatch.setattr(feature_sets, "PENALTIES", (0.02, 0.2))  # another artifact
    feature_predictions(study, ALL, [main], TRUNK)
    split = study.splits[0]
    candidates = feature_candidates(study, ALL, [main], 0)
    best = tuned_logistic(candidates, study.labels.correct, split.train, split.validation)[1]
    np.testing.assert_array_equal(seen[0], candidates[best][0])
