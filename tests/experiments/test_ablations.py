import numpy as np
import pytest
from tiny_studies import auc_within_folds, relabelled

from prefill_router.evaluation.comparison import HOLM
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import ablations as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.features.selection import Choice
from prefill_router.metrics import gap_closed
from prefill_router.trunk import SharedTrunkEnsemble

SEPARATE = "one network per target"
SPLIT = "another inner split per network"


@pytest.fixture
def fold(study):
    return FoldFit(study, 1, [study.parameters.encoder])


def test_the_recipe_is_the_router_of_the_other_chapters(study):
    """Where as many networks are kept as are trained."""
    assert study.parameters.keep == study.parameters.n_seeds
    raw = predictions(study, PRIMARY, calibrated=False)
    for ours, theirs in zip(it.trained(study, it.RECIPE), raw, strict=True):
        known = ~np.isnan(theirs).any(axis=1)
        assert known.sum() > 50
        np.testing.assert_allclose(ours.mean(axis=0)[known], theirs[known], atol=1e-6)


def test_every_variant_predicts_every_target(study, fold):
    for features, settings in it.VARIANTS.values():
        p = it.train_variant(fold, features, settings | {"max_epochs": 1})
        assert p.shape == (study.parameters.keep, *study.labels.correct.shape)
        assert ((p > 0) & (p < 1)).all()


def test_networks_of_each_target_read_its_own_features_and_splits_may_differ(study, fold):
    Y, train, p = study.labels.correct, fold.split.train, study.parameters
    groups = study.labels.group[train]
    separate = it.train_variant(fold, *it.VARIANTS[SEPARATE])
    for k, x in enumerate(fold.reduced(fold.choices)):
        alone = SharedTrunkEnsemble(p.keep, p.keep, random_state=p.seed)
        alone.fit(x[train], Y[train][:, [k]], groups)
        want = alone.predict_each(x)[np.argsort(alone.kept_)]
        np.testing.assert_allclose(separate[:, :, [k]], want, atol=1e-6)
    x = fold.features()
    other = SharedTrunkEnsemble(p.keep, p.keep, split="published", random_state=p.seed)
    want = other.fit(x[train], Y[train], groups).predict_each(x)[np.argsort(other.kept_)]
    np.testing.assert_allclose(it.train_variant(fold, *it.VARIANTS[SPLIT]), want, atol=1e-6)


def test_features_of_variants(study, fold):
    main = study.parameters.encoder
    table = study.layer_auc(main).query("fold == 1 and not constant")
    place = table.groupby(["layer", "pooling", "dimension"])["auc"].mean().idxmax()
    [one_layer], [all_layers] = it.one_layer(fold), it.all_layers(fold)
    np.testing.assert_array_equal(one_layer, fold.reduced([Choice(main, *place)])[0])
    assert all_layers.shape[1] <= fold.features().shape[1]


def test_every_change_has_its_rows_and_seeds_are_compared_with_the_same_seed(study, monkeypatch):
    some = {name: it.VARIANTS[name] for name in (it.RECIPE, "no dropout")}
    monkeypatch.setattr(it, "VARIANTS", some)
    rows, at = it.ablate(study), held_out(study)
    assert not rows.duplicated(["metric", "router", "versus", "seed"]).any()
    names, alone = ["no dropout", it.ONE, it.BEST], rows[rows["seed"].isna()]
    for metric in ("gap closed", "AUC"):
        assert select(alone, metric=metric)["router"].tolist() == [it.RECIPE, *names]
        assert select(alone, metric=metric, versus=it.RECIPE)["router"].tolist() == names
    assert select(rows, metric=HOLM, router=it.RECIPE, versus=None)["versus"].tolist() == names
    changed, recipe = (it.trained(study, name) for name in ("no dropout", it.RECIPE))
    average = [p.mean(axis=0) for p in recipe]

    def measured(by_fold):
        p, n = at.join(by_fold), np.arange(len(at.rows))
        accuracy = at.correct[n, p.argmax(axis=1)].mean()
        aucs = [auc_within_folds(study, p, k) for k in range(study.labels.n_targets)]
        best, oracle = at.correct[n, at.best_single].mean(), at.correct.max(axis=1).mean()
        return {"gap closed": gap_closed(accuracy, best, oracle), "AUC": np.mean(aucs)}

    second, other, both = (
        measured(p) for p in ([p[1] for p in changed], [p[1] for p in recipe], average)
    )
    for name, a, b in (("no dropout", second, other), (it.ONE, other, both)):
        for metric in a:
            row = one(rows, metric=metric, router=name, versus=it.RECIPE, seed=1)
            assert row.estimate == pytest.approx(a[metric] - b[metric], abs=1e-12)
            assert np.isnan(row.lower)


def test_a_target_without_labels_stays_at_one_half(study):
    Y = study.labels.correct.copy()
    Y[study.splits[0].train, 1] = np.nan
    fold = FoldFit(relabelled(study, correct=Y), 0, [study.parameters.encoder])
    state = study.activations().states(2, "mean")
    for sets in ([state], [state] * Y.shape[1]):
        p = it.train_variant(fold, lambda fold, sets=sets: sets, {})
        np.testing.assert_array_equal(p[:, :, 1], 0.5)
        assert p[:, :, 0].std() > 0
