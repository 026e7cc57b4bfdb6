from itertools import product

import numpy as np
import pytest
from sklearn.decomposition import PCA
from tiny_studies import flipped

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import feature_sets as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import predictions
from prefill_router.features.selection import choose
from prefill_router.probes.decomposition import decompose


def test_sets_are_what_they_are_called(study):
    main, split, states = study.parameters.encoder, study.splits[1], study.activations()
    fold = FoldFit(study, 1, [main])

    def check(features, place, k, dimension=None):
        h = states.states(*place)
        expected = decompose(h[split.train], dimension or features[k].shape[1]).transform(h)
        np.testing.assert_allclose(features[k], expected, atol=1e-4)

    one, last, by_j = (it.features(fold, name) for name in (it.ONE, it.LAST, it.BY_J))
    table = study.layer_auc(main).query("fold == 1")
    probes = study.probes(main).query("fold == 1 and not constant")
    best_last, best = choose(table.query("layer == 3")), choose(table)
    for k in range(study.labels.n_targets):
        check(one, (best[k].layer, best[k].pooling), k, best[k].dimension)
        check(last, (3, best_last[k].pooling), k, best_last[k].dimension)
        by = probes.loc[probes[probes["target"] == k]["J"].idxmax()]
        check(by_j, (int(by["layer"]), by["pooling"]), k)


def test_many_layers_are_principal_components_of_all_their_components(study, monkeypatch):
    fold = FoldFit(study, 0, study.trained_encoders)
    train, parts = fold.split.train, []
    for states in fold.states.values():
        for layer, pooling in product(states.layers, states.poolings):
            h = states.states(layer, pooling)
            parts.append(decompose(h[train], h.shape[1]).transform(h))
    X = np.hstack(parts)
    expected = PCA(3, svd_solver="full").fit(X[train]).transform(X)
    monkeypatch.setattr(it, "WIDTH", 3)
    (found,) = it.features(fold, it.SEVERAL)
    np.testing.assert_allclose(abs(found[:, ::-1]), abs(expected), atol=1e-3)


def test_a_set_is_the_same_whatever_criterion_the_study_has(study):
    by_j, main = study.like(criterion="J"), [study.parameters.encoder]
    assert by_j.choices(main, 0) != study.choices(main, 0)
    for name in (it.ONE, it.BY_J):
        mine, theirs = (it.features(FoldFit(s, 0, main), name) for s in (study, by_j))
        np.testing.assert_array_equal(np.hstack(mine), np.hstack(theirs))


@pytest.mark.parametrize("name", [it.BY_J, it.ALL])
def test_labels_of_test_rows_change_no_prediction(study, name):
    study, main = study.like(outer_folds=1), [study.parameters.encoder]
    test, router = study.test_rows, it.feature_set(name)
    p, same = (predictions(s, router, main)[0] for s in (study, flipped(study, test)))
    np.testing.assert_array_equal(p, same)
    assert np.isfinite(p[test]).all()


def test_every_set_of_an_encoder_is_compared_with_one_layer_per_target(study):
    main, at = study.parameters.encoder, held_out(study)
    found = it.compare_features(study)
    assert found["encoder"].unique().tolist() == study.encoders
    for encoder in study.encoders:
        sets = {name: [encoder] for name in (it.ONE, it.BY_J, it.LAST, it.ALL)}
        sets |= {it.SEVERAL: study.trained_encoders} if encoder == main else {}
        p = {n: at.join(predictions(study, it.feature_set(n), e)) for n, e in sets.items()}
        rows = select(found, metric="AUC", encoder=encoder).set_index("router")["estimate"]
        assert list(rows.index) == list(sets)
        expected = at.likeliest(p)
        for name in sets:
            assert rows[name] == one(expected, metric="AUC", router=name).estimate
        differences = select(found, metric="AUC", encoder=encoder, versus=it.ONE)
        lead = rows.drop(it.ONE) - rows[it.ONE]
        np.testing.assert_allclose(differences["estimate"], lead, atol=1e-12)


def test_one_trained_encoder_has_no_others_to_be_read_with(study):
    alone = study.like(encoders=[], untrained="")
    found = it.compare_features(alone)
    assert set(found["router"]) == {it.ONE, it.BY_J, it.LAST, it.ALL}
