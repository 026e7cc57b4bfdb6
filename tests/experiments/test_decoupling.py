import numpy as np
import pytest
import tiny_models
import tiny_studies
import torch
from tiny_studies import auc_within_folds, label_table

from prefill_router.evaluation.estimates import pick
from prefill_router.experiments.decoupling import encoder_matrix, own_against_others
from prefill_router.experiments.routers import OWN, predictions

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("own_artifacts")


def test_the_matrix_holds_each_encoders_auc_for_each_target(study):
    matrix, estimates = encoder_matrix(study)
    assert list(matrix.index) == study.encoders
    assert list(matrix.columns) == list(study.labels.targets)
    for encoder in study.encoders:
        p = study.over_folds(predictions(study, OWN, [encoder]))
        for k, target in enumerate(study.labels.targets):
            want = auc_within_folds(study, p, k)
            assert matrix.loc[encoder, target] == pytest.approx(want, abs=1e-12)
            assert pick(estimates, "AUC", encoder, target).lower <= want
    assert len(estimates) == matrix.size


def test_own_states_are_compared_with_the_best_others(tmp_path):
    """The target `early` is an encoder as well; the untrained control is no candidate."""
    names = {name: str(tmp_path / name) for name in ("main", "other", "control")}
    own = tmp_path / "early"
    tiny_models.save(own, seed=8)
    table = label_table()
    table["model"] = table["model"].replace("early", str(own))
    prices = {"prices": ""}
    study = tiny_studies.study(
        tmp_path, table, encoders=[names["other"], str(own)], outer_folds=2, **prices
    )
    [row] = own_against_others(study)
    other, own_p = np.full((2, study.labels.n_queries), np.nan)
    for fold, split in enumerate(study.splits):
        inner = {}
        for name in ("main", "other"):
            aucs = study.layer_auc(names[name])
            here = (aucs["target"] == 0) & (aucs["fold"] == fold)
            inner[names[name]] = aucs[here]["auc"].max()
        best = max(inner, key=inner.get)
        t = split.test
        other[t] = predictions(study, OWN, [best])[fold][t, 0]
        own_p[t] = predictions(study, OWN, [str(own)])[fold][t, 0]
    assert row.target == str(own)
    tested = (np.column_stack([p[study.test_rows]] * 3) for p in (other, own_p))
    want = np.subtract(*(auc_within_folds(study, p, 0) for p in tested))
    assert row.estimate == pytest.approx(want, abs=1e-12)
    assert row.lower <= row.estimate <= row.upper


def test_where_no_target_has_states_there_is_nothing_to_compare(study):
    assert own_against_others(study) == []


def test_a_target_always_right_has_no_auc(with_constant):
    assert np.isnan(encoder_matrix(with_constant)[0]["perfect"]).all()
