import numpy as np
import pytest
import tiny_studies
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tiny_studies import flipped, label_table

from prefill_router.experiments import routers as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.fold import FoldFit
from prefill_router.recipe import fit_recipe
from prefill_router.recipe.calibration import fit_calibration
from prefill_router.storage import STAGES
from prefill_router.trunk import SharedTrunkEnsemble


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tiny_studies.study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def other(study):
    return flipped(study, study.test_rows)


@pytest.mark.parametrize("router", it.ROUTERS)
def test_test_labels_never_influence_predictions_which_training_rows_have_none(
    study, other, router
):
    [mine], [theirs] = it.predictions(study, router), it.predictions(other, router)
    assert np.array_equal(mine, theirs, equal_nan=True)
    assert mine.shape == study.labels.correct.shape
    train = np.isin(np.arange(len(mine)), study.splits[0].train)
    assert np.isnan(mine[train]).all()
    assert ((mine[~train] >= 0) & (mine[~train] <= 1)).all()


@pytest.mark.parametrize("router", [it.PRIMARY, it.TFIDF])
def test_every_router_is_calibrated_on_validation_rows(study, router):
    [raw], [p] = (it.predictions(study, router, calibrated=c) for c in (False, True))
    v, labels = study.splits[0].validation, study.labels
    map_ = fit_calibration(raw[v], labels.correct[v], labels.group[v])
    known = [*v, *study.test_rows]
    np.testing.assert_array_equal(p[known], map_.apply(raw[known]))


def test_routers_learn_what_there_is_and_nothing_from_shuffled_labels(tmp_path):
    study = tiny_studies.study(tmp_path, label_table(1200), encoders=[])
    rows, Y = study.test_rows, study.labels.correct[study.test_rows]
    learned, shuffled = (
        [
            roc_auc_score(y, p)
            for y, p in zip(Y.T, it.predictions(study, name)[0][rows].T, strict=True)
        ]
        for name in (it.PRIMARY, it.SHUFFLED)
    )
    assert min(learned[:2]) > 0.75
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.08)


def test_missing_labels_and_a_target_always_right_are_no_obstacle(tmp_path):
    table = label_table(targets=tiny_studies.TARGETS)
    table = table[np.random.default_rng(0).random(len(table)) > 0.3]
    study = tiny_studies.study(tmp_path, table)
    assert np.isnan(study.labels.correct).any()
    for router in it.router_names(study.like(slow_routers=True)):
        [p] = it.predictions(study, router)
        assert not np.isnan(p[study.test_rows]).any(), router


# -- what is kept --------------------------------------------------------------------------------


def test_a_router_is_fitted_again_for_another_version_study_or_encoder(study, monkeypatch):
    fits = []

    def fit(fold):
        fits.append(fold.fold)
        return np.full(fold.labels.correct.shape, 0.5)

    small, mine = study.like(n_queries=60), it.RouterSpec("mine", fit)
    for change in (
        {}, {"seed": 1}, {"dimensions": [3]}, {"n_seeds": 3}, {"keep": 1}, {"criterion": "J"},
        {"inner_folds": 4}, {"layers": "upper"}, {"poolings": ["mean"]},
        {"targets": ["late", "noisy"]}, {"max_tokens": 2, "truncation": "left"},
    ):  # fmt: skip
        del fits[:]
        for _ in range(2):
            it.predictions(small.like(**change), mine)
        assert fits == [0], change
    it.predictions(small, mine, study.parameters.encoders)
    monkeypatch.setitem(STAGES, "experiments", 99)
    it.predictions(small, mine)
    assert fits == [0] * 3


def test_networks_kept_are_those_that_predicted(study):
    fold, [found] = FoldFit(study, 0, [study.parameters.encoder]), it.fitted(study, it.PRIMARY)
    x, train, labels = fold.features(), fold.split.train, study.labels
    by_network = found["networks"][study.test_rows].swapaxes(0, 1)
    ensemble = SharedTrunkEnsemble(2, 2).fit(x[train], labels.correct[train], labels.group[train])
    np.testing.assert_allclose(by_network, ensemble.predict_each(x[study.test_rows]), atol=1e-5)
    assert found["chosen"].tolist() == ensemble.kept_
    for s, history in enumerate(ensemble.histories_):
        for part, losses in history.items():
            np.testing.assert_allclose(found[part][s, : len(losses)], losses, atol=1e-6)
            assert np.isnan(found[part][s, len(losses) :]).all()
    assert not np.allclose(by_network[0], by_network[1])
    whole = held_out(study).join(it.predictions(study, it.PRIMARY, calibrated=False))
    np.testing.assert_allclose(by_network.mean(axis=0), whole, atol=1e-12)


# -- what is read --------------------------------------------------------------------------------


def test_routers_read_the_encoders_they_name_or_are_left_out(study, monkeypatch):
    p = study.parameters
    read = {name: spec.reads(study) for name, spec in it.ROUTERS.items()}
    assert read[it.PRIMARY] == [p.encoder] and read[it.UNTRAINED] == [p.untrained]
    assert read[it.CLUSTERS] == []  # of latent semantics
    quick = [name for name, spec in it.ROUTERS.items() if not spec.slow]
    assert it.router_names(study) == quick
    slow = study.like(slow_routers=True)
    assert it.router_names(slow) == list(it.ROUTERS)
    without = set(it.ROUTERS) - set(it.router_names(slow.like(untrained="")))
    assert without == {it.UNTRAINED}
    assert it.BEST_ENCODER not in it.router_names(slow.like(encoders=[]))
    monkeypatch.setattr(it, "CPU_EPOCH", 1)  # it would take too long
    assert set(it.ROUTERS) - set(it.router_names(slow)) == {it.FINE_TUNED}


def test_the_best_head_is_the_one_that_the_recipe_chooses(study):
    """The router of `Router.fit(head="auto")`, though each head was fitted by itself."""
    fold = FoldFit(study, 0, it.ROUTERS[it.AUTO].reads(study))
    about = study.labels, fold.states, fold.split, fold.choices
    made = fit_recipe(study.recipe("auto"), *about).predictor
    raw = made.raw(made.features(made.read(fold.states)))
    [p] = it.predictions(study, it.AUTO, calibrated=False)
    np.testing.assert_allclose(p[study.test_rows], raw[study.test_rows], atol=1e-6)


def test_own_features_are_those_chosen_for_the_target_alone(study):
    fold, Y = FoldFit(study, 0, it.ROUTERS[it.OWN].reads(study)), study.labels.correct
    train, v, test = fold.split.train, fold.split.validation, fold.split.test
    [p] = it.predictions(study, it.OWN, calibrated=False)
    for k, f in enumerate(fold.reduced(fold.choices)):
        fits = []
        for C in (0.001, 0.01, 0.1, 1):
            model = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(f[train], Y[train, k])
            guess = model.predict_proba(f)[:, 1]
            fits.append((np.mean((guess[v] - Y[v, k]) ** 2), guess))
        np.testing.assert_allclose(p[test, k], min(fits)[1][test], atol=1e-3)
