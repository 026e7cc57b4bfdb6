import numpy as np
import tiny_studies
from sklearn.linear_model import LogisticRegression
from tiny_studies import flipped

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import feature_sets as it
from prefill_router.experiments.comparison import compare_predictions
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import predictions
from prefill_router.features.selection import choose
from prefill_router.labels.splits import Split
from prefill_router.probes.decomposition import decompose


def test_sets_are_what_they_are_called(study):
    main, split, states = study.parameters.encoder, study.splits[1], study.activations()
    fold, both = FoldFit(study, 1, [main]), FoldFit(study, 1, study.trained_encoders)

    def check(features, place, k, dimension=None):
        h = states.states(*place)
        expected = decompose(h[split.train], dimension or features[k].shape[1]).transform(h)
        np.testing.assert_allclose(features[k], expected, atol=1e-4)

    names = it.ONE, it.LAST, it.BY_J
    one, last, by_j = (it.feature_candidates(fold, name)[0] for name in names)
    table = study.layer_auc(main).query("fold == 1")
    probes = study.probes(main).query("fold == 1 and not constant")
    best_last, best = choose(table.query("layer == 3")), choose(table)
    for k in range(study.labels.n_targets):
        check(one, (best[k].layer, best[k].pooling), k, best[k].dimension)
        check(last, (3, best_last[k].pooling), k, best_last[k].dimension)
        by = probes.loc[probes[probes["target"] == k]["J"].idxmax()]
        check(by_j, (int(by["layer"]), by["pooling"]), k)
    n_places = len(states.layers) * len(states.poolings)
    every = it.feature_candidates(fold, it.ALL)
    assert [x.shape[1] for (x,) in every] == [n_places * width for width in (2, 6)]
    ((several,),) = it.feature_candidates(both, it.SEVERAL)
    own = [FoldFit(study, 1, [e]).distinct_features() for e in study.trained_encoders]
    np.testing.assert_array_equal(several, np.hstack(own))
    assert len(it.feature_candidates(both, it.PAIRED)[0]) == study.labels.n_targets


def test_a_set_is_the_same_whatever_criterion_the_study_has(study):
    by_j, main = study.like(criterion="J"), [study.parameters.encoder]
    assert by_j.choices(main, 0) != study.choices(main, 0)
    for name, encoders in ((it.ONE, main), (it.BY_J, main), (it.SEVERAL, study.trained_encoders)):
        folds = [FoldFit(s, 0, encoders) for s in (study, by_j)]
        mine, theirs = (np.hstack(it.feature_candidates(fold, name)[0]) for fold in folds)
        np.testing.assert_array_equal(mine, theirs)


def test_logistic_heads_are_scikit_learns_and_validation_chooses(rng):
    latent, noise = rng.normal(size=(300, 3)), rng.normal(size=(300, 4))
    Y = (latent[:, [0, 1, 1]] + 0.5 * rng.normal(size=(300, 3)) > 0).astype(float)
    Y[::7, 1] = np.nan
    split = Split(np.arange(150), np.arange(150, 220), np.arange(220, 300))
    v = split.validation
    Y[v, 2] = np.nan  # then the first features and the strongest penalty are taken
    collinear = np.hstack([latent, latent @ rng.normal(size=(3, 2)), np.zeros((300, 1))])
    p, best = it.tuned_logistic([[noise], [collinear]], Y, split)
    assert best == 1
    for k in range(3):
        known, scored = split.train[~np.isnan(Y[split.train, k])], {}
        for X in (noise, collinear):
            for C in it.PENALTIES:
                model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
                q = model.fit(X[known], Y[known, k]).predict_proba(X)[:, 1]
                seen = ~np.isnan(Y[v, k])
                score = np.mean((q[v] - Y[v, k])[seen] ** 2) if seen.any() else 0.0
                scored.setdefault(score, q)
        np.testing.assert_allclose(p[:, k], scored[min(scored)], atol=1e-5)


def test_labels_of_test_rows_change_no_prediction(study):
    study, main = study.like(outer_folds=1), [study.parameters.encoder]
    test = study.test_rows
    for features in (it.ONE, it.ALL, it.BY_J):
        router = it.feature_set(features, it.LOGISTIC)
        p, same = (predictions(s, router, main)[0] for s in (study, flipped(study, test)))
        np.testing.assert_array_equal(p, same)
        assert np.isfinite(p[test]).all()


def test_the_trunk_reads_the_candidate_that_validation_prefers(study, monkeypatch):
    seen = []
    monkeypatch.setattr(FoldFit, "trunk", lambda self, x: seen.append(x))
    fold = FoldFit(study, 0, [study.parameters.encoder])
    it.feature_set(it.ALL, it.TRUNK).fit(fold)
    candidates = it.feature_candidates(fold, it.ALL)
    best = it.tuned_logistic(candidates, study.labels.correct, fold.split)[1]
    np.testing.assert_array_equal(seen[0], candidates[best][0])


def test_every_set_and_head_is_compared_with_the_recipe(study):
    main, control = study.parameters.encoder, study.parameters.untrained
    found = it.compare_features(study)
    sets = [(name, main) for name in (it.ONE, it.LAST, it.BY_J, it.ALL)]
    sets += [(it.PAIRED, ""), (it.SEVERAL, ""), (it.ONE, control)]
    tried = select(found, metric=it.TRIED)
    assert list(zip(tried["router"], tried["encoder"], strict=True)) == sets
    for head in (it.LOGISTIC, it.TRUNK):
        p = {}
        for features, encoder in sets:
            read = [encoder] if encoder else study.trained_encoders
            p[features, encoder] = predictions(study, it.feature_set(features, head), read)
        expected = compare_predictions(study, p, [(name, sets[0]) for name in sets[1:]])
        for row in select(expected, metric=["gap closed", "Brier"], versus=None).itertuples():
            about = {"metric": row.metric, "versus": row.versus and f"{it.ONE}, {head}"}
            about |= {"router": f"{row.router[0]}, {head}", "encoder": row.router[1]}
            assert one(found, split="test", **about).estimate == row.estimate
    per_target = len(study.layer_auc(main)) // (len(study.splits) * study.labels.n_targets)
    n_tried = {it.ONE: per_target + len(it.PENALTIES), it.ALL: 2 * len(it.PENALTIES)}
    n_tried[it.LAST] = per_target // 4 + len(it.PENALTIES)
    for features, expected in n_tried.items():
        assert one(tried, router=features, encoder=main).estimate == expected


def test_layers_are_compared_for_the_other_encoders(study):
    found = it.compare_layers(study)
    assert set(found["router"]) == {f"{name}, {it.LOGISTIC}" for name in (it.ALL, it.LAST)}
    assert set(found["versus"]) == {f"{it.ONE}, {it.LOGISTIC}"}
    assert set(found["encoder"]) == set(study.encoders) - {study.parameters.encoder}


def test_one_encoder_without_a_control_leaves_out_what_needs_more(tmp_path):
    study = tiny_studies.study(tmp_path, encoders=[], untrained="", prices="")
    sets = select(it.compare_features(study), metric=it.TRIED)["router"]
    assert set(sets) == {it.LAST, it.ONE, it.BY_J, it.ALL}
    assert it.compare_layers(study).empty
