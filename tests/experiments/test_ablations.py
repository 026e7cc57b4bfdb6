from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from tiny_studies import relabelled

from prefill_router.evaluation.results import Quantity, counted, one, results, select
from prefill_router.evaluation.significance import holm
from prefill_router.experiments import ablations as it
from prefill_router.experiments.comparison import compare_predictions
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.features.selection import Choice
from prefill_router.trunk import SharedTrunkEnsemble

SEPARATE = "one network per target"


@pytest.fixture(scope="module")
def found(study):
    return it.configurations(
        study, {name: it.trained(study, name) for name in (PRIMARY, "no dropout")}
    )


@pytest.fixture
def fold(study):
    return FoldFit(study, 1, [study.parameters.encoder])


@pytest.mark.parametrize("n_heads", [1, 3])
def test_the_best_networks_of_each_head_are_averaged(rng, n_heads):
    these = it.Networks(rng.random((4, 7, 3)), *rng.random((3, 4, n_heads)))
    for by, scores in ((None, these.losses), (these.briers, these.briers)):
        average = these.average(2, by)
        for k in range(3):
            best = np.argsort(scores[:, k if n_heads == 3 else 0])[:2]
            np.testing.assert_allclose(average[:, k], these.p[best][:, :, k].mean(axis=0))


def test_the_recipe_is_the_router_of_the_other_chapters(study, found):
    assert next(iter(found)) == PRIMARY
    raw = predictions(study, PRIMARY, calibrated=False)
    for ours, theirs in zip(found[PRIMARY], raw, strict=True):
        known = ~np.isnan(theirs).any(axis=1)
        assert known.sum() > 50
        np.testing.assert_allclose(ours[known], theirs[known], atol=1e-6)


def test_every_variant_predicts_every_target(study, fold):
    for variant in it.variants(study).values():
        quick = replace(variant, settings={**variant.settings, "max_epochs": 1})
        these = it.train_variant(fold, quick)
        assert these.p.shape == (study.parameters.n_seeds, *study.labels.correct.shape)
        assert ((these.p > 0) & (these.p < 1)).all() and (these.epochs == 1).all()


def test_separate_heads_and_published_splits_are_those_of_the_ensemble(study, fold):
    x, Y, train, p = fold.features(), study.labels.correct, fold.split.train, study.parameters
    groups = study.labels.group[train]
    separate = it.train_variant(fold, it.variants(study)[SEPARATE])
    for k in range(Y.shape[1]):
        alone = SharedTrunkEnsemble(p.n_seeds, 1, random_state=p.seed)
        alone.fit(x[train], Y[train][:, [k]], groups)
        np.testing.assert_allclose(separate.average(1)[:, [k]], alone.predict_proba(x), atol=1e-6)
        np.testing.assert_allclose(separate.losses[:, k], alone.validation_losses_, atol=1e-6)
    published = it.train_variant(fold, it.variants(study)["another split for each network"])
    same = SharedTrunkEnsemble(p.n_seeds, p.n_seeds, split="published", random_state=p.seed)
    for s, rows in enumerate(same.fit(x[train], Y[train], groups).held_out_):
        squares = (published.p[s, train[rows]] - Y[train[rows]]) ** 2
        np.testing.assert_allclose(published.briers[s], np.nanmean(squares), atol=1e-6)


def test_only_one_variant_cuts_groups(study, fold, monkeypatch):
    seen, fit = [], SharedTrunkEnsemble.fit

    def remember(ensemble, X, Y, groups):
        seen.append(len(np.unique(groups)))
        return fit(ensemble, X, Y, groups)

    monkeypatch.setattr(SharedTrunkEnsemble, "fit", remember)
    for name in (PRIMARY, "another split for each, groups cut"):
        it.train_variant(fold, it.variants(study)[name])
    n_groups = len(np.unique(study.labels.group[fold.split.train]))
    assert seen == [n_groups, len(fold.split.train)] and n_groups < seen[1]


def test_features_of_variants(study, fold):
    main = study.parameters.encoder
    table = study.layer_auc(main).query("fold == 1 and not constant")
    place = table.groupby(["layer", "pooling", "dimension"])["auc"].mean().idxmax()
    np.testing.assert_array_equal(it.one_layer(fold), fold.reduced([Choice(main, *place)])[0])
    assert it.all_layers(fold).shape[1] <= fold.features().shape[1]
    assert it.own_layers(fold, 2).shape[1] == 2 * study.labels.n_targets
    columns = np.cumsum([0, *(choice.dimension for choice in fold.choices)])[:-1]
    np.testing.assert_allclose(it.own_layers(fold, 1), fold.features()[:, columns], atol=1e-5)


def test_every_configuration_has_its_rows_and_seeds_are_compared_with_the_same_seed(
    study, found, monkeypatch
):
    some = {name: it.variants(study)[name] for name in (PRIMARY, "no dropout")}
    monkeypatch.setattr(it, "variants", lambda study: some)
    rows = it.ablate(study)
    assert not rows.duplicated(["metric", "router", "versus", "seed", "split"]).any()
    names = [PRIMARY, "no dropout", it.FIRST, it.BEST, it.ALL, it.BY_BRIER, it.AT_RANDOM]
    alone = rows[rows["seed"].isna()]
    for split in ("validation", "test"):
        for metric in ("gap closed", "AUC", "Brier"):
            assert select(alone, metric=metric, split=split)["router"].tolist() == names
            pairs = select(alone, metric=metric, split=split, versus=PRIMARY)
            assert pairs["router"].tolist() == names[1:]
    assert one(rows, metric=it.KEPT).estimate == study.parameters.keep
    assert one(rows, metric=it.TRIED).estimate == len(names)
    networks, recipe = (it.trained(study, name) for name in ("no dropout", PRIMARY))
    ended = np.concatenate([of.epochs.ravel() for of in networks])
    share = np.mean(ended == SharedTrunkEnsemble().max_epochs)
    assert one(rows, metric=it.STOPPED, router="no dropout").estimate == share
    single = {"average": found[PRIMARY], it.AT_RANDOM: it.drawn_at_random(study, recipe)[1]}
    for name, of_folds in (("no dropout", networks), (PRIMARY, recipe)):
        single[name] = [of.p[1] for of in of_folds]
    pairs = [("no dropout", PRIMARY), (PRIMARY, "average"), (it.AT_RANDOM, "average")]
    expected = compare_predictions(study, single, pairs, "test", 100)
    for (a, b), name in zip(pairs, ("no dropout", it.FIRST, it.AT_RANDOM), strict=True):
        for metric in ("gap closed", "AUC", "Brier"):
            ours = one(rows, metric=metric, router=name, versus=PRIMARY, seed=1, split="test")
            theirs = one(expected, metric=metric, router=a, versus=b)
            assert ours.estimate == pytest.approx(theirs.estimate, abs=1e-12)
            assert np.isnan(ours.lower)


def test_queries_and_seeds_add_as_squares_and_p_is_corrected_for_all_changes():
    """Three changes, with two seeds for two of them."""
    values = {"narrow": (0.2, 0.1, 0.3), it.FIRST: (-0.2, -0.3, -0.1), it.ALL: (0.1, 0.05, 0.15)}
    rows = [
        vars(Quantity("AUC", name, PRIMARY)) | {"estimate": e, "lower": low, "upper": high}
        for name, (e, low, high) in values.items()
    ]
    for name, seeds in {"narrow": (0.1, 0.3), it.FIRST: (0.0, 0.4)}.items():
        of = [Quantity("AUC", name, PRIMARY, seed=s) for s in range(2)]
        rows += map(counted, of, seeds)
    rows.append(counted(Quantity("AUC", "narrow", PRIMARY, split="validation"), 9.0))
    rows = results([*rows, counted(Quantity(it.KEPT, PRIMARY, split="train"), 2)])
    found = it.changes(rows, "AUC", "test")
    assert found["router"].tolist() == ["narrow", it.FIRST, it.ALL]
    # the deviation of an average of two networks, of one alone, and an unknown one
    deviations = [np.std([0.1, 0.3], ddof=1) / np.sqrt(2), np.std([0.0, 0.4], ddof=1), np.nan]
    np.testing.assert_allclose(found["seed_error"], deviations)
    errors = np.hypot([0.2 / 3.92, 0.2 / 3.92, 0.1 / 3.92], np.nan_to_num(deviations))
    np.testing.assert_allclose(found["error"], errors)
    np.testing.assert_allclose(found["p"], p := 2 * norm.sf([0.2, 0.2, 0.1] / errors))
    np.testing.assert_allclose(found["p_holm"], holm(p))


def test_a_target_without_labels_stays_at_one_half(study):
    Y = study.labels.correct.copy()
    Y[study.splits[0].train, 1] = np.nan
    fold = FoldFit(relabelled(study, correct=Y), 0, [study.parameters.encoder])
    features = {"features": lambda fold: study.activations().states(2, "mean")}
    for name in (PRIMARY, SEPARATE):
        p = it.train_variant(fold, replace(it.variants(study)[name], **features)).average(1)
        np.testing.assert_array_equal(p[:, 1], 0.5)
        assert p[:, 0].std() > 0
