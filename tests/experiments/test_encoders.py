import numpy as np
import pytest
import tiny_models
import tiny_studies
from tiny_studies import auc_within_folds, label_table

from prefill_router.evaluation.results import one
from prefill_router.experiments import encoders as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import OWN, predictions


def test_the_grid_holds_each_encoders_auc_for_each_target_and_its_lead(study):
    p, found = study.parameters, it.encoder_grid(study)
    targets = {name: k for k, name in enumerate(study.labels.targets)}
    for encoder in study.encoders:
        q = held_out(study).join(predictions(study, OWN, [encoder], calibrated=False))
        want = [auc_within_folds(study, q, k) for k in targets.values()]
        for target, value in {"": np.mean(want), **dict(zip(targets, want, strict=True))}.items():
            row = one(found, router=encoder, target=target)
            assert row.estimate == pytest.approx(value, abs=1e-12)
            assert row.lower <= row.estimate <= row.upper
    pairs = {(e, p.untrained) for e in study.trained_encoders} | {(it.PAIRED, p.encoder)}
    leads = found.query("versus != '' and target == ''")
    assert set(zip(leads["router"], leads["versus"], strict=True)) == pairs
    for a, b in pairs:
        lead = one(found, router=a).estimate - one(found, router=b).estimate
        assert one(found, router=a, versus=b).estimate == pytest.approx(lead)
    assert it.own_against_others(study).empty  # no target has states


def test_own_states_are_compared_with_the_best_others(tmp_path):
    """The target `early` is an encoder as well; the untrained control is no candidate."""
    own, table = str(tiny_models.save(tmp_path / "early", seed=8)), label_table()
    main, other = str(tmp_path / "main"), str(tmp_path / "other")
    table["model"] = table["model"].replace("early", own)
    study = tiny_studies.study(tmp_path, table, encoders=[other, own], outer_folds=2, prices="")
    row = one(it.own_against_others(study), router=it.OTHER, versus=None, target=own)

    def auc(name, fold):
        table = study.layer_auc(name)
        return table[table["target"].eq(0) & table["fold"].eq(fold)]["auc"].max()

    best = [other if auc(other, f) > auc(main, f) else main for f in range(2)]
    assert [it.best_encoder(study, own, [main, other], f) for f in range(2)] == best
    of = {name: predictions(study, OWN, [name], calibrated=False) for name in (main, other, own)}
    theirs = [of[name][fold] for fold, name in enumerate(best)]
    p = (held_out(study).join(by_fold)[:, [0, 0, 0]] for by_fold in (theirs, of[own]))
    want = np.subtract(*(auc_within_folds(study, values, 0) for values in p))
    assert row.estimate == pytest.approx(want, abs=1e-12)
    assert row.lower <= row.estimate <= row.upper


def test_a_target_always_right_has_no_auc(tmp_path):
    own = str(tiny_models.save(tmp_path / "perfect", seed=8))
    table = label_table(targets=tiny_studies.TARGETS)
    table["model"] = table["model"].replace("perfect", own)
    study = tiny_studies.study(tmp_path, table, encoders=[own], prices="")
    assert it.own_against_others(study)["estimate"].isna().all()
    assert it.encoder_grid(study).query("target == @own")["estimate"].isna().all()
