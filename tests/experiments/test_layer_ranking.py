import numpy as np
import pytest
import tiny_studies
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from prefill_router.evaluation.estimates import pick
from prefill_router.experiments.layer_ranking import (
    auc_lost,
    n_peaks,
    probe_profiles,
    rank_correlations,
    search_misses,
    ternary_search,
)

torch.set_num_threads(1)

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.mark.parametrize("probe", ["J", "J_pca", "d_eff", "anisotropy"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_rank_correlations_are_scipys(study, with_constant, probe, pooling):
    for any_study in (study, with_constant):
        encoder = any_study.parameters.encoder
        probes, aucs = any_study.probes(encoder), any_study.layer_auc(encoder)
        by_target = []
        for k in range(3):  # the learnable ones; a constant target has no AUC
            by_fold = []
            for fold in (0, 1):
                here = f"target == {k} and fold == {fold} and pooling == '{pooling}'"
                p = probes.query(here).query("not constant").set_index("layer")[probe]
                auc = aucs.query(here).groupby("layer")["auc"].max()[p.index]
                by_fold.append(spearmanr(p, auc).statistic)
            by_target.append(np.mean(by_fold))
        found = rank_correlations(any_study, encoder)
        row = pick(found, f"Spearman of {probe}", f"{encoder}, {pooling}")
        assert row.estimate == pytest.approx(np.mean(by_target), abs=1e-12)
        assert min(by_target) - 1e-9 <= row.lower <= row.estimate <= row.upper
        assert row.n == (3 if pooling == "last" else 4)  # layer 0 is constant


@pytest.mark.parametrize(
    ("values", "peaks"),
    [([1], 1), ([1, 2, 3], 1), ([3, 1], 1), ([1, 3, 1, 2], 2), ([2, 2, 1, 1], 1),
     ([1, 2, 2, 1], 1), ([1, 2, 2, 3], 1), ([5, 1, 4, 1, 5], 3), ([], 0)],
)  # fmt: skip
def test_peaks_are_counted_with_ends_and_plateaus(values, peaks):
    assert n_peaks(values) == peaks


def test_one_layer_has_no_rank(tmp_path):
    study = tiny_studies.study(tmp_path, layers=[2])
    found = rank_correlations(study, study.parameters.encoder)
    assert len(found) == 8
    assert np.isnan([row.estimate for row in found]).all()


def test_what_choosing_with_J_loses(with_constant):
    study, encoder = with_constant, with_constant.parameters.encoder
    probes, aucs = study.probes(encoder), study.layer_auc(encoder)
    found = auc_lost(study, encoder)
    assert [row.target for row in found] == list(study.labels.targets)
    assert np.isnan(found[3].estimate)
    for k, row in enumerate(found[:3]):
        lost = []
        for fold in (0, 1):
            of = probes.query(f"target == {k} and fold == {fold} and not constant")
            at = of.loc[of["J"].idxmax()]
            scores = aucs.query(f"target == {k} and fold == {fold} and not constant")
            chosen = scores[(scores["layer"] == at["layer"]) & (scores["pooling"] == at["pooling"])]
            lost.append(scores["auc"].max() - chosen["auc"].max())
        assert row.estimate == pytest.approx(np.mean(lost), abs=1e-12)
        assert row.estimate >= 0


@given(st.integers(1, 60), st.integers(0, 59), st.integers(0, 2**32 - 1))
def test_ternary_search_finds_the_peak_of_every_profile_with_one(n, peak, seed):
    peak = peak % n
    steps = np.random.default_rng(seed).uniform(0.1, 1, n).cumsum()
    asked = []

    def score(place):
        asked.append(place)
        return -abs(steps[place] - steps[peak])

    assert ternary_search(score, 0, n - 1) == peak
    assert len(set(asked)) == len(asked)
    assert len(asked) <= 3 + 2 * np.ceil(np.log(max(n / 3, 1)) / np.log(1.5))


def test_ternary_search_misses_a_peak_off_its_path():
    profile = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert ternary_search(profile.__getitem__, 0, 7) == 7


def test_search_misses_are_counted_over_all_profiles(with_constant):
    found = search_misses(with_constant, with_constant.parameters.encoder)
    aucs = with_constant.layer_auc(with_constant.parameters.encoder).query("not constant")
    peaks, lost = [], []
    for _, of in aucs.dropna().groupby(["fold", "pooling", "dimension", "target"]):
        profile = of.sort_values("layer")["auc"].to_numpy()
        peaks.append(n_peaks(profile) > 1)
        lost.append(
            max(profile) - profile[ternary_search(profile.__getitem__, 0, len(profile) - 1)]
        )
    expected = [np.mean(peaks), np.mean(np.array(lost) > 0), np.mean(lost)]
    assert [row.estimate for row in found] == pytest.approx(expected)
    assert {row.n for row in found} == {len(peaks)}
    assert len(peaks) == 2 * 2 * 2 * 3  # folds, poolings, dimensions and targets with an AUC


def test_probe_profiles_are_means_without_constant_states(with_constant):
    study, encoder = with_constant, with_constant.parameters.encoder
    found = probe_profiles(study, encoder)
    probes, aucs = study.probes(encoder), study.layer_auc(encoder)
    here = "layer == 2 and pooling == 'mean'"
    for metric in ("J", "J_white", "d_eff"):
        row = pick(found, metric, f"{encoder}, layer 2, mean")
        assert row.estimate == pytest.approx(np.nanmean(probes.query(here)[metric]), rel=1e-12)
    best = aucs.query(here).groupby(["fold", "target"])["auc"].max()
    row = pick(found, "AUC, cross-validated", f"{encoder}, layer 2, mean")
    assert row.estimate == pytest.approx(np.nanmean(best), rel=1e-12)
    assert not [row for row in found if row.router == f"{encoder}, layer 0, last"]
