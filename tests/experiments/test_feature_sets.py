import numpy as np
import pytest
import tiny_studies
import torch
from sklearn.linear_model import LogisticRegression
from tiny_studies import relabelled

from prefill_router.evaluation.results import one, select
from prefill_router.experiments.comparison import apply_policies, held_out
from prefill_router.experiments.feature_sets import (
    ALL,
    BY_J,
    LAST,
    LOGISTIC,
    ONE,
    PAIRED,
    PENALTIES,
    SEVERAL,
    TRIED,
    TRUNK,
    compare_features,
    compare_layers,
    feature_candidates,
    feature_set,
    layer_widths,
    tuned_logistic,
)
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import predictions
from prefill_router.features.selection import choose
from prefill_router.labels.splits import Split
from prefill_router.metrics import gap_closed
from prefill_router.probes.decomposition import decompose

torch.set_num_threads(1)

pytestmark = pytest.mark.usefixtures("own_artifacts")


def test_sets_are_what_they_are_called(study):
    main, both = study.parameters.encoder, study.trained_encoders
    split, states = study.splits[1], study.activations(main)
    it = FoldFit(study, 1, [main])
    (one,), expected_features = feature_candidates(it, ONE), it.reduced(it.choices)
    for features, expected in zip(one, expected_features, strict=True):
        np.testing.assert_array_equal(features, expected)
    (last,) = feature_candidates(FoldFit(study, 1, [main]), LAST)
    table = study.layer_auc(main).query("fold == 1 and layer == 3")
    for features, choice in zip(last, choose(table), strict=True):
        reduction = decompose(states.states(3, choice.pooling)[split.train], choice.dimension)
        expected = reduction.transform(states.states(3, choice.pooling))
        np.testing.assert_allclose(features, expected, atol=1e-4)
    (by_j,) = feature_candidates(FoldFit(study, 1, [main]), BY_J)
    probes = study.probes(main).query("fold == 1 and not constant")
    for k, features in enumerate(by_j):
        best = probes.loc[probes[probes["target"] == k]["J"].idxmax()]
        at = states.states(int(best["layer"]), best["pooling"])
        expected = decompose(at[split.train], features.shape[1]).transform(at)
        np.testing.assert_allclose(features, expected, atol=1e-4)
    widths = layer_widths(study, main)
    every = feature_candidates(FoldFit(study, 1, [main]), ALL)
    n_places = len(states.layers) * len(states.poolings)
    assert widths == [2, 6]
    assert [x.shape[1] for (x,) in every] == [n_places * width for width in widths]
    ((several,),) = feature_candidates(FoldFit(study, 1, both), SEVERAL)
    own = [FoldFit(study, 1, [e]).distinct_features() for e in both]
    np.testing.assert_array_equal(several, np.hstack(own))
    assert len(feature_candidates(FoldFit(study, 1, both), PAIRED)[0]) == study.labels.n_targets


def test_a_set_is_the_same_whatever_criterion_the_study_has(study):
    by_j, main = study.like(criterion="J"), study.parameters.encoder
    assert by_j.choices([main], 0) != study.choices([main], 0)
    for features, encoders in ((ONE, [main]), (BY_J, [main]), (SEVERAL, study.trained_encoders)):
        (mine,), (theirs,) = (
            feature_candidates(FoldFit(s, 0, encoders), features) for s in (study, by_j)
        )
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
    split = Split(train, validation, np.arange(220, 300))
    p, best = tuned_logistic(candidates, Y, split)
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
    split = Split(np.arange(20), np.arange(20, 30), np.arange(30, 40))
    p, _ = tuned_logistic([[np.zeros((40, 3))]], Y, split)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p, p[:1].repeat(40, axis=0))


def test_labels_of_test_rows_change_no_prediction(tmp_path):
    """And training rows are not predicted, so that nobody can report them."""

    study = tiny_studies.study(tmp_path)
    split, correct = study.splits[0], study.labels.correct.copy()
    correct[split.test] = 1 - correct[split.test]
    flipped, main = relabelled(study, correct=correct), [study.parameters.encoder]
    for features in (ONE, ALL, BY_J):
        router = feature_set(features, LOGISTIC)
        p, same = (predictions(s, router, main)[0] for s in (study, flipped))
        np.testing.assert_array_equal(p, same)
        assert np.isnan(p[split.train]).all() and np.isfinite(p[split.test]).all()


def test_the_trunk_reads_the_candidate_that_validation_prefers(study, monkeypatch):
    seen = []
    monkeypatch.setattr(FoldFit, "trunk", lambda self, x: seen.append(x))
    it = FoldFit(study, 0, [study.parameters.encoder])
    feature_set(ALL, TRUNK).fit(it)
    candidates = feature_candidates(it, ALL)
    best = tuned_logistic(candidates, study.labels.correct, it.split)[1]
    np.testing.assert_array_equal(seen[0], candidates[best][0])


def test_every_set_and_head_is_compared_with_the_recipe(study):
    main, control = study.parameters.encoder, study.parameters.untrained
    found = compare_features(study)
    sets = [(name, main) for name in (ONE, LAST, BY_J, ALL)]
    sets += [(PAIRED, ""), (SEVERAL, ""), (ONE, control)]
    tried = select(found, metric=TRIED)
    assert list(zip(tried["router"], tried["encoder"], strict=True)) == sets
    at = held_out(study)
    Y = at.correct
    for head in (LOGISTIC, TRUNK):
        recipe = f"{ONE}, {head}"
        for features, encoder in sets:
            about = {"router": f"{features}, {head}", "encoder": encoder}
            encoders = [encoder] if encoder else study.trained_encoders
            p = predictions(study, feature_set(features, head), encoders)
            brier = np.mean((study.over_folds(p) - Y) ** 2)
            row = one(found, metric="Brier", split="test", **about)
            assert row.estimate == pytest.approx(brier, abs=1e-12)
            asked, best = apply_policies(study, p).choice, at.best_single
            right, single = (Y[np.arange(len(Y)), k].mean() for k in (asked, best))
            gap = one(found, metric="gap closed", **about).estimate
            assert gap == pytest.approx(gap_closed(right, single, Y.max(axis=1).mean()))
            if (features, encoder) != sets[0]:
                row = one(found, metric="gap closed", versus=recipe, **about)
                theirs = one(found, metric="gap closed", router=recipe, encoder=main).estimate
                assert row.estimate == pytest.approx(gap - theirs, abs=1e-12)
                assert row.lower <= row.estimate <= row.upper
    per_target = len(study.layer_auc(main)) // (len(study.splits) * study.labels.n_targets)
    for features, expected in ((ONE, per_target + len(PENALTIES)), (ALL, 2 * len(PENALTIES)),
                               (LAST, per_target // 4 + len(PENALTIES))):  # fmt: skip
        assert one(tried, router=features, encoder=main).estimate == expected


def test_layers_are_compared_for_the_other_encoders(study):
    found = compare_layers(study)
    assert set(found["router"]) == {f"{name}, {LOGISTIC}" for name in (ALL, LAST)}
    assert set(found["versus"]) == {f"{ONE}, {LOGISTIC}"}
    assert set(found["encoder"]) == set(study.encoders) - {study.parameters.encoder}


def test_one_encoder_without_a_control_leaves_out_what_needs_more(tmp_path):
    study = tiny_studies.study(tmp_path, encoders=[], untrained="", prices="")
    assert set(select(compare_features(study), metric=TRIED)["router"]) == {LAST, ONE, BY_J, ALL}
    assert compare_layers(study).empty
