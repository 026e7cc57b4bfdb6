import numpy as np
import pytest
import tiny_models
import tiny_studies
from tiny_studies import auc_within_folds, label_table

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import encoders as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import n_parameters, resolve
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.training import build_model


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


def test_every_encoder_has_a_size_and_is_compared_with_the_main_one(study):
    found = it.scaling(study)
    main = study.parameters.encoder
    assert set(select(found, metric="AUC")["encoder"]) == set(study.encoders)
    for name in study.encoders:
        size = one(found, metric=it.SIZE, encoder=name)
        assert size.estimate == n_parameters(resolve(name)) > 0 and np.isnan(size.lower)
    for metric in ("AUC", "gap closed"):
        rows = select(found, metric=metric, versus=None).set_index(["encoder", "versus"])
        for name in set(study.encoders) - {main}:
            lead = rows["estimate"][main, ""] - rows["estimate"][name, ""]
            assert rows["estimate"][main, name] == pytest.approx(lead)
    assert select(found, metric=it.STEPS).empty  # these encoders do not say


def test_the_first_checkpoint_is_what_training_began_with(study):
    places = it.checkpoints(study)
    assert list(places) == [f"zoo/reader-m-step-{step}" for step in (0, 250, 1000)] + [
        "zoo/reader-m"
    ]
    mine = load_encoder(resolve(places["zoo/reader-m-step-0"]))[0].state_dict()
    began = build_model(RECIPES["reader-m"]).base_model.state_dict()
    for name, weights in mine.items():
        np.testing.assert_allclose(weights, began[name], atol=1e-3)  # stored in half precision
