from dataclasses import replace

import numpy as np
import pytest
import tiny_studies
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from prefill_router.evaluation.estimates import pick
from prefill_router.experiments.layer_choice import (
    PROBES,
    deepest_dip,
    held_out,
    held_out_ranking,
)
from prefill_router.features.selection import masked_auc
from prefill_router.probes.decomposition import decompose

torch.set_num_threads(1)

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def found(with_constant):
    return held_out(with_constant, with_constant.parameters.encoder)


def test_heads_are_scikit_learns_fitted_on_training_rows(with_constant, found):
    study = with_constant
    activations, Y = study.activations(), study.labels.correct
    wanted = found.heads.query("fold == 1 and pooling == 'mean' and layer == 2 and target < 3")
    assert len(wanted) == 3
    split = study.splits[1]
    n_before = len(study.splits[0].validation)
    for place, head in wanted.iterrows():
        reduction = decompose(activations.states(2, "mean")[split.train], head["dimension"])
        train, held = (
            reduction.transform(activations.states(2, "mean")[rows])
            for rows in (split.train, split.validation)
        )
        y = Y[:, head["target"]]
        model = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(train, y[split.train])
        expected = model.predict_proba(held)[:, 1]
        np.testing.assert_allclose(found.scores[n_before:, place], expected, atol=1e-5)
        np.testing.assert_array_equal(found.correct[n_before:, place], y[split.validation])
        assert np.isnan(found.correct[:n_before, place]).all()


def test_no_constant_states_and_the_dimension_that_cross_validation_prefers(with_constant, found):
    assert not found.heads.query("layer == 0").eq("last").any(axis=None)
    aucs = with_constant.layer_auc(with_constant.parameters.encoder)
    for head in found.heads.query("target < 3").sample(8, random_state=0).itertuples():
        of = aucs[
            (aucs["fold"] == head.fold)
            & (aucs["layer"] == head.layer)
            & (aucs["pooling"] == head.pooling)
            & (aucs["target"] == head.target)
        ]
        assert head.auc == of["auc"].max()
        assert head.dimension == of.loc[of["auc"].idxmax(), "dimension"]


def test_ranking_and_loss_follow_from_held_out_auc(with_constant, found):
    encoder = with_constant.parameters.encoder
    estimates = held_out_ranking(with_constant, encoder)
    heads = found.heads.assign(held=masked_auc(found.correct, found.scores))
    lost = []
    for k, target in enumerate(with_constant.labels.targets[:3]):
        for probe, column in PROBES.items():
            by_fold = [
                spearmanr(of[column], of["held"]).statistic
                for _, of in heads[heads["target"] == k].groupby("fold")
            ]
            row = pick(estimates, f"Spearman of {probe}", f"{encoder}, all", target)
            assert row.estimate == pytest.approx(np.mean(by_fold), abs=1e-12)
            assert row.split == "validation"
        by_fold = [
            of.loc[of["auc"].idxmax(), "held"] - of.loc[of["J"].idxmax(), "held"]
            for _, of in heads[heads["target"] == k].groupby("fold")
        ]
        lost.append(np.mean(by_fold))
        row = pick(estimates, "AUC lost by choosing with J", encoder, target)
        assert row.estimate == pytest.approx(lost[-1], abs=1e-12)
        assert row.lower <= row.estimate <= row.upper
    row = pick(estimates, "AUC lost by choosing with J", encoder, "")
    assert row.estimate == pytest.approx(np.mean(lost), abs=1e-12)
    constant = with_constant.labels.targets[3]
    assert np.isnan(pick(estimates, "Spearman of J", f"{encoder}, all", constant).estimate)


def test_pairs_across_poolings_and_differences_follow_from_held_out_auc(study):
    encoder = study.parameters.encoder
    estimates = held_out_ranking(study, encoder)
    found = held_out(study, encoder)
    heads = found.heads.assign(held=masked_auc(found.correct, found.scores))
    means = {}
    for probe in ("J", "J_white", "cross-validated AUC"):
        column = PROBES[probe]
        for k, target in enumerate(study.labels.targets):
            by_fold = []
            for _, of in heads[heads["target"] == k].groupby("fold"):
                last, mean = (of[of["pooling"] == pooling] for pooling in ("last", "mean"))
                agreed = [
                    (1 + np.sign((x[column] - y[column]) * (x["held"] - y["held"]))) / 2
                    for _, x in last.iterrows()
                    for _, y in mean.iterrows()
                ]
                by_fold.append(np.mean(agreed))
            row = pick(estimates, f"pairs across poolings ordered by {probe}", encoder, target)
            assert row.estimate == pytest.approx(np.mean(by_fold), abs=1e-12)
            means.setdefault(probe, []).append(np.mean(by_fold))
    row = pick(estimates, "pairs across poolings ordered by J_white minus J", encoder)
    expected = np.mean(means["J_white"]) - np.mean(means["J"])
    assert row.estimate == pytest.approx(expected, abs=1e-12)
    white, plain = (
        pick(estimates, f"Spearman of {probe}", f"{encoder}, all").estimate
        for probe in ("J_white", "J")
    )
    row = pick(estimates, "Spearman of J_white minus J", f"{encoder}, all")
    assert row.estimate == pytest.approx(white - plain, abs=1e-12)


def test_profiles_and_the_deepest_dip_are_means_over_targets_and_folds(study):
    encoder = study.parameters.encoder
    estimates = held_out_ranking(study, encoder)
    found = held_out(study, encoder)
    heads = found.heads.assign(held=masked_auc(found.correct, found.scores))
    for pooling in ("last", "mean"):
        profile = heads[heads["pooling"] == pooling].groupby("layer")[["auc", "held"]].mean()
        for layer, held in profile["held"].items():
            row = pick(estimates, "AUC, held out", f"{encoder}, layer {layer}, {pooling}")
            assert row.estimate == pytest.approx(held, abs=1e-12)
        left, valley, right = deepest_dip(profile["auc"].to_numpy())
        held = profile["held"].to_numpy()
        row = pick(estimates, "depth of the deepest dip", f"{encoder}, {pooling}")
        assert row.estimate == pytest.approx(min(held[left], held[right]) - held[valley], abs=1e-12)


@pytest.mark.parametrize(
    ("profile", "at"),
    [([1, 2], None), ([3, 1, 2], (0, 1, 2)), ([1, 5, 2, 3, 1, 4], (1, 4, 5)),
     ([1, 2, 3], (0, 1, 2)), ([1, 4, 2, 5, 3, 6], (1, 2, 5))],
)  # fmt: skip
def test_the_deepest_dip_lies_between_the_highest_places_on_either_side(profile, at):
    assert deepest_dip(np.array(profile, dtype=float)) == at


def test_one_layer_and_one_pooling_leave_comparisons_undefined(tmp_path):
    study = tiny_studies.study(tmp_path, layers=[2], poolings=["mean"])
    encoder = study.parameters.encoder
    estimates = held_out_ranking(study, encoder)
    assert 0 < pick(estimates, "AUC, held out", f"{encoder}, layer 2, mean").estimate < 1
    for metric, router in (
        ("Spearman of J", f"{encoder}, mean"),
        ("pairs across poolings ordered by J", encoder),
        ("depth of the deepest dip", f"{encoder}, mean"),
    ):
        assert np.isnan(pick(estimates, metric, router).estimate)


def test_test_rows_are_never_read(tmp_path, monkeypatch):
    """Neither their labels nor their states matter to any of the answers."""

    def answers(directory, spoil):
        study = tiny_studies.study(directory)
        test, states = study.splits[0].test, type(study.activations()).states

        def spoiled(self, layer, pooling):
            values = states(self, layer, pooling).copy()
            values[test] = 1e6
            return values

        if spoil:
            monkeypatch.setattr(type(study.activations()), "states", spoiled)
            correct = study.labels.correct.copy()
            correct[test] = 1 - correct[test]
            study.labels = replace(study.labels, correct=correct)
        rows = held_out_ranking(study, study.parameters.encoder)
        return [(row.estimate, row.lower, row.upper) for row in rows]

    before = answers(tmp_path / "before", spoil=False)
    np.testing.assert_array_equal(answers(tmp_path / "after", spoil=True), before)
