from dataclasses import replace

import numpy as np
import pytest
import tiny_studies
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from prefill_router.comparison import pick
from prefill_router.decomposition import decompose
from prefill_router.features import masked_auc
from prefill_router.layer_choice import (
    PROBES,
    all_layers_against_one,
    held_out,
    held_out_ranking,
)

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
        for probe in PROBES:
            by_fold = [
                spearmanr(of[probe], of["held"]).statistic
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


def test_all_layers_side_by_side_equal_scikit_learn(tmp_path):
    study = tiny_studies.study(tmp_path, layers=[1, 2], poolings=["mean"])
    encoder, split = study.parameters.encoder, study.splits[0]
    estimates = all_layers_against_one(study, encoder, dimension=4)
    sides = []
    for layer in (1, 2):
        states = study.activations().states(layer, "mean")
        reduction = decompose(states[split.train], 4)
        sides.append([reduction.transform(states[s]) for s in (split.train, split.validation)])
    train, held = (np.hstack(side) for side in zip(*sides, strict=True))
    areas = []
    for k, target in enumerate(study.labels.targets):
        y = study.labels.correct[:, k]
        model = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(train, y[split.train])
        areas.append(roc_auc_score(y[split.validation], model.decision_function(held)))
        every = pick(estimates, "AUC, all layers", encoder, target).estimate
        one = pick(estimates, "AUC, chosen layer", encoder, target).estimate
        assert every == pytest.approx(areas[-1], abs=2e-3)
        gain = pick(estimates, "AUC, all layers minus chosen", encoder, target)
        assert gain.estimate == pytest.approx(every - one, abs=1e-12)
    mean = pick(estimates, "AUC, all layers", encoder, "").estimate
    assert mean == pytest.approx(np.mean(areas), abs=2e-3)


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
        asked = (held_out_ranking, all_layers_against_one)
        rows = [row for f in asked for row in f(study, study.parameters.encoder)]
        return [(row.estimate, row.lower, row.upper) for row in rows]

    before = answers(tmp_path / "before", spoil=False)
    np.testing.assert_array_equal(answers(tmp_path / "after", spoil=True), before)
