import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefill_router.experiments.ablations import (
    ALL,
    AT_RANDOM,
    BEST,
    BY_BRIER,
    FIRST,
    Networks,
    all_layers,
    configurations,
    join_heads,
    one_layer,
    own_layers,
    repeats,
    train_variant,
    trained,
    variants,
)
from prefill_router.experiments.fold import Fold
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.experiments.study import Study
from prefill_router.trunk import SharedTrunkEnsemble

SEPARATE = "heads: one network per target"


@pytest.fixture(scope="module")
def found(study):
    return configurations(study)


@pytest.fixture
def fold(study):
    return Fold(study, 1, [study.parameters.encoder])


def networks(rng, n_networks=4, n=7, n_targets=3, n_heads=1):
    p = rng.random((n_networks, n, n_targets))
    return Networks(p, *rng.random((3, n_networks, n_heads)))


@pytest.mark.parametrize("n_heads", [1, 3])
def test_the_best_networks_of_each_head_are_averaged(rng, n_heads):
    these = networks(rng, n_heads=n_heads)
    for by, scores in ((None, these.losses), (these.briers, these.briers)):
        average = these.average(2, by)
        for k in range(3):
            best = np.argsort(scores[:, k if n_heads == 3 else 0])[:2]
            np.testing.assert_allclose(average[:, k], these.p[best][:, :, k].mean(axis=0))


def test_heads_are_joined_target_by_target(rng):
    heads = [networks(rng, n_targets=1) for _ in range(3)]
    joined = join_heads(heads)
    assert joined.p.shape == (4, 7, 3)
    assert joined.epochs.shape == (4, 3)
    for k, head in enumerate(heads):
        np.testing.assert_array_equal(joined.average(1)[:, k], head.average(1)[:, 0])


def test_the_recipe_is_the_router_of_the_other_chapters(study, found):
    assert next(iter(found)) == PRIMARY
    for ours, theirs in zip(found[PRIMARY], predictions(study, PRIMARY), strict=True):
        known = ~np.isnan(theirs).any(axis=1)
        assert known.sum() > 50
        np.testing.assert_array_equal(ours[known], theirs[known])


def test_only_what_a_variant_changes_is_changed(study):
    defaults = SharedTrunkEnsemble().get_params()
    changed = variants(study)
    for name, variant in changed.items():
        assert all(defaults[key] != value for key, value in variant.settings.items()), name
    recipe = changed[PRIMARY]
    assert all(variant != recipe for name, variant in changed.items() if name != PRIMARY)
    assert len({name.split(":")[0] for name in changed} - {PRIMARY}) == 6


def test_variants_train_where_the_study_does(study, fold, monkeypatch):
    monkeypatch.setattr(Study, "training_device", torch.device("meta"))  # it has no numbers
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        train_variant(fold, variants(study)[SEPARATE])


def test_separate_heads_see_one_target_s_labels_alone(study, fold):
    found = train_variant(fold, variants(study)[SEPARATE])
    x, train, p = fold.features(), study.splits[1].train, study.parameters
    for k in range(study.labels.n_targets):
        alone = SharedTrunkEnsemble(p.n_seeds, 1, random_state=p.seed)
        alone.fit(x[train], study.labels.correct[train][:, [k]], study.labels.group[train])
        np.testing.assert_allclose(found.average(1)[:, [k]], alone.predict_proba(x), atol=1e-6)
        np.testing.assert_allclose(found.losses[:, k], alone.validation_losses_, atol=1e-6)


def test_brier_scores_are_those_of_the_rows_that_stopped_the_network(study, fold):
    found = train_variant(fold, variants(study)["split: another for each network"])
    x, train, p = fold.features(), study.splits[1].train, study.parameters
    Y = study.labels.correct
    same = SharedTrunkEnsemble(p.n_seeds, p.n_seeds, split="published", random_state=p.seed)
    same.fit(x[train], Y[train], study.labels.group[train])
    for s, rows in enumerate(same.held_out_):
        held = train[rows]
        squares = (found.p[s, held] - Y[held]) ** 2
        np.testing.assert_allclose(found.briers[s], np.nanmean(squares), atol=1e-6)


def test_only_one_variant_cuts_groups(study, fold, monkeypatch):
    seen = []

    def remember(ensemble, X, Y, groups):
        seen.append(len(np.unique(groups)))
        return fit(ensemble, X, Y, groups)

    fit = SharedTrunkEnsemble.fit
    monkeypatch.setattr(SharedTrunkEnsemble, "fit", remember)
    train = study.splits[1].train
    n_groups = len(np.unique(study.labels.group[train]))
    for name in (PRIMARY, "split: another for each, groups cut"):
        train_variant(fold, variants(study)[name])
    assert seen == [n_groups, len(train)]
    assert n_groups < len(train)


def test_one_layer_is_the_best_on_average(study, fold):
    table = study.layer_auc(study.parameters.encoder).query("fold == 1 and not constant")
    means = table.groupby(["layer", "pooling", "dimension"])["auc"].mean()
    layer, pooling, dimension = means.idxmax()
    x = one_layer(fold)
    assert x.shape == (study.labels.n_queries, dimension)
    states = study.activations().states(layer, pooling)[study.splits[1].train]
    standard = (states - states.mean(axis=0)) / states.std(axis=0)
    variance = np.linalg.svd(standard, compute_uv=False)[:dimension] ** 2 / len(states)
    np.testing.assert_allclose(x[study.splits[1].train].var(axis=0), variance, rtol=1e-3)


def test_widths_of_features(study, fold):
    recipe = fold.features().shape[1]
    assert all_layers(fold).shape[1] <= recipe
    for dimension in (1, 2):
        assert own_layers(fold, dimension).shape[1] == dimension * study.labels.n_targets
    choices = study.choices([study.parameters.encoder], 1)
    columns = np.cumsum([0, *(choice.dimension for choice in choices)])[:-1]
    np.testing.assert_allclose(own_layers(fold, 1), fold.features()[:, columns])


def test_averages_of_the_recipe_s_networks(study, found):
    for fold, these in enumerate(trained(study, PRIMARY)):
        order = np.argsort(these.losses[:, 0])
        np.testing.assert_array_equal(found[FIRST][fold], these.p[0])
        np.testing.assert_array_equal(found[BEST][fold], these.p[order[0]])
        np.testing.assert_allclose(found[ALL][fold], these.p.mean(axis=0))
        np.testing.assert_allclose(found[BY_BRIER][fold], these.average(2, these.briers))


def test_a_seed_is_compared_with_the_recipe_s_same_seed(study, found, fold):
    p, pairs = repeats(study)
    n_seeds = study.parameters.n_seeds
    assert len(pairs) == n_seeds * (len(variants(study)) - 1 + 2)
    for name, recipe in pairs:
        ensemble = name.startswith((FIRST, AT_RANDOM))
        assert recipe == (PRIMARY if ensemble else PRIMARY + name[name.rindex(",") :])
    x, train = fold.features(), study.splits[1].train
    one = SharedTrunkEnsemble(1, 1, random_state=study.parameters.seed)
    one.fit(x[train], study.labels.correct[train], study.labels.group[train])
    np.testing.assert_allclose(p[f"{PRIMARY}, seed 1"][1], one.predict_proba(x), atol=1e-6)
    np.testing.assert_array_equal(p[PRIMARY][1], found[PRIMARY][1])


def test_a_target_without_labels_stays_at_one_half(study, tmp_path):
    study = copy.copy(study)
    Y = study.labels.correct.copy()
    Y[study.splits[0].train, 1] = np.nan
    fold = Fold(study, 0, [study.parameters.encoder])
    study.labels = replace(study.labels, correct=Y)
    features = {"features": lambda it: study.activations().states(2, "mean")}
    for name in (PRIMARY, SEPARATE):
        p = train_variant(fold, replace(variants(study)[name], **features)).average(1)
        np.testing.assert_array_equal(p[:, 1], 0.5)
        assert p[:, 0].std() > 0
