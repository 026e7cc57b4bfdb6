import numpy as np
import pytest
import tiny_studies
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from tiny_studies import flipped

from prefill_router import metrics
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import layers as it
from prefill_router.extraction.activations import Activations
from prefill_router.probes.decomposition import decompose


@pytest.fixture(scope="module")
def scored(with_constant):
    """Heads, and of held-out rows their scores and the labels, NaN where they predict nothing."""
    encoder = with_constant.parameters.encoder
    heads = it.layer_heads(with_constant, encoder)
    return heads, *it.held_out_scores(with_constant, encoder, heads)


@pytest.fixture(scope="module")
def heads(scored):
    """Heads with their AUC on held-out rows."""
    heads, scores, correct = scored
    return heads.assign(held=metrics.auc(np.nan_to_num(scores), correct))


def test_heads_are_scikit_learns_fitted_on_training_rows(with_constant, scored):
    study, (heads, scores, correct) = with_constant, scored
    split, n_before = study.splits[1], len(study.splits[0].validation)
    h, Y = study.activations().states(2, "mean"), study.labels.correct
    wanted = heads.query("fold == 1 and pooling == 'mean' and layer == 2 and target < 3")
    assert len(wanted) == 3
    for place, head in wanted.iterrows():
        reduction, y = decompose(h[split.train], head["dimension"]), Y[:, head["target"]]
        train, held = (reduction.transform(h[r]) for r in (split.train, split.validation))
        model = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(train, y[split.train])
        expected = model.predict_proba(held)[:, 1]
        np.testing.assert_allclose(scores[n_before:, place], expected, atol=1e-5)
        np.testing.assert_array_equal(correct[n_before:, place], y[split.validation])
        assert np.isnan(correct[:n_before, place]).all()


def test_no_constant_states_and_the_dimension_that_cross_validation_prefers(with_constant, heads):
    assert heads.query("layer == 0 and pooling == 'last'").empty
    aucs = with_constant.layer_auc(with_constant.parameters.encoder)
    for head in heads.query("target < 3").sample(8, random_state=0).itertuples():
        of = aucs
        for name in it.PLACE:
            of = of[of[name] == getattr(head, name)]
        assert head.auc == of["auc"].max()
        assert head.dimension == of.loc[of["auc"].idxmax(), "dimension"]


@pytest.mark.parametrize(
    ("ranking", "column"), [(it.held_out_ranking, "held"), (it.training_ranking, "auc")]
)
def test_ranking_and_loss_follow_from_auc(with_constant, heads, ranking, column):
    found = ranking(with_constant, with_constant.parameters.encoder)
    varied = heads[heads["target"] < 3]  # the others have no AUC

    def mean(of_fold, pooling=it.ALL):
        here = varied[varied["pooling"].eq(pooling) | (pooling == it.ALL)]
        return np.mean([of_fold(of) for _, of in here.groupby(["fold", "target"])])

    for pooling in ("last", it.ALL):
        for ranker, values in it.RANKERS.items():
            rho = mean(lambda of, v=values: spearmanr(of[v], of[column]).statistic, pooling)
            row = one(found, metric=it.SPEARMAN, router=ranker, pooling=pooling)
            assert row.estimate == pytest.approx(rho, abs=1e-12)
            assert row.lower <= row.estimate <= row.upper
    pooled = select(found, metric=it.SPEARMAN, pooling=it.ALL, versus=None)
    pooled = pooled.set_index(["router", "versus"])["estimate"]
    assert pooled["J_white", "J"] == pytest.approx(pooled["J_white", ""] - pooled["J", ""])

    def searched(of):
        profiles = [rows.set_index("layer") for _, rows in of.groupby("pooling")]
        peaks = [rows.iloc[it.ternary_search(rows["auc"].iloc.__getitem__, 0, len(rows) - 1)]
                 for rows in profiles]  # fmt: skip
        return max(peaks, key=lambda head: head["auc"])

    choices = {"J": lambda of: of.loc[of["J"].idxmax()], it.TERNARY: searched}
    choices["anisotropy"] = lambda of: of.loc[of["anisotropy"].idxmin()]
    for ranker, chosen in choices.items():
        lost = mean(lambda of, c=chosen: of.loc[of["auc"].idxmax(), column] - c(of)[column])
        row = one(found, metric=it.LOST, router=ranker)
        assert row.estimate == pytest.approx(lost, abs=1e-12)


def test_profiles_and_dips_are_means_over_targets_and_folds(with_constant, heads):
    found = it.held_out_ranking(with_constant, with_constant.parameters.encoder)
    for pooling in ("last", "mean"):
        profile = heads[heads["pooling"] == pooling].groupby("layer")[["auc", "held"]].mean()
        rows = select(found, metric="AUC", pooling=pooling).set_index("layer")["estimate"]
        held = profile["held"].to_numpy()
        np.testing.assert_allclose(rows[profile.index], held, atol=1e-12)
        left, valley, right = held[list(it.deepest_dip(profile["auc"].to_numpy()))]
        row = one(found, metric=it.DIP, pooling=pooling)
        assert row.estimate == pytest.approx(min(left, right) - valley, abs=1e-12)


@pytest.mark.parametrize(
    ("profile", "at"),
    [([1, 2], None), ([3, 1, 2], (0, 1, 2)), ([1, 5, 2, 3, 1, 4], (1, 4, 5)),
     ([1, 2, 3], (0, 1, 2)), ([1, 4, 2, 5, 3, 6], (1, 2, 5))],
)  # fmt: skip
def test_the_deepest_dip_lies_between_the_highest_places_on_either_side(profile, at):
    assert it.deepest_dip(np.array(profile, dtype=float)) == at


def test_one_layer_and_one_pooling_leave_comparisons_undefined(tmp_path):
    study = tiny_studies.study(tmp_path, layers=[2], poolings=["mean"])
    encoder = study.parameters.encoder
    found = it.held_out_ranking(study, encoder)
    assert 0 < one(found, metric="AUC", layer=2).estimate < 1
    assert np.isnan(one(found, metric=it.DIP).estimate)
    for ranking in (found, it.training_ranking(study, encoder)):
        assert select(ranking, metric=it.SPEARMAN, versus=None)["estimate"].isna().all()


def test_test_rows_are_never_read(study, monkeypatch):
    """Neither their labels nor their states matter to any of the answers."""
    study, bounds = study.like(outer_folds=1), ["estimate", "lower", "upper"]
    test, encoder, states = study.splits[0].test, study.parameters.encoder, Activations.states

    def spoiled(self, layer, pooling):
        values = states(self, layer, pooling).copy()
        values[test] = 1e6
        return values

    before = it.held_out_ranking(study, encoder)[bounds]
    monkeypatch.setattr(Activations, "states", spoiled)
    after = it.held_out_ranking(flipped(study, test), encoder)[bounds]
    np.testing.assert_array_equal(after, before)


@given(st.integers(1, 60), st.integers(0, 59), st.integers(0, 2**32 - 1))
def test_ternary_search_finds_the_peak_of_every_profile_with_one(n, peak, seed):
    peak = peak % n
    steps = np.random.default_rng(seed).uniform(0.1, 1, n).cumsum()
    asked = []

    def score(place):
        asked.append(place)
        return -abs(steps[place] - steps[peak])

    assert it.ternary_search(score, 0, n - 1) == peak
    assert len(set(asked)) == len(asked)
    assert len(asked) <= 3 + 2 * np.ceil(np.log(max(n / 3, 1)) / np.log(1.5))


def test_layer_profiles_are_means_without_constant_states(with_constant):
    study, encoder = with_constant, with_constant.parameters.encoder
    found = it.layer_profiles(study, encoder)
    probes, aucs = study.probes(encoder), study.layer_auc(encoder)
    here = "layer == 2 and pooling == 'mean'"
    expected = probes.query(here)[["J", "J_white", "d_eff"]].mean().to_dict()
    best = aucs.query(here).groupby(["fold", "target"])["auc"].max()
    for metric, value in (expected | {it.CROSS_VALIDATED: best.mean()}).items():
        row = one(found, metric=metric, layer=2, pooling="mean")
        assert row.estimate == pytest.approx(value, rel=1e-12)
    assert select(found, layer=0, pooling="last").empty
