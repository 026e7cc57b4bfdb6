import numpy as np
import pytest
from tiny_studies import auc_within_folds

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import scaling as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import predictions
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import n_parameters, resolve
from prefill_router.storage import read_json
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.training import build_model


def test_every_encoder_has_a_size_and_is_compared_with_the_main_one(study):
    found, main = it.by_size(study), study.parameters.encoder
    assert set(select(found, metric="AUC")["router"]) == set(study.encoders)
    for name in study.encoders:
        row = one(found, metric="AUC", router=name)
        assert row.x == n_parameters(resolve(name))
        p = held_out(study).join(predictions(study, it.RIDGE, [name]))
        areas = [auc_within_folds(study, p, k) for k in range(3)]
        assert row.estimate == pytest.approx(np.mean(areas))
        if name != main:
            lead = one(found, metric="AUC", router=main).estimate - row.estimate
            lost = one(found, metric="AUC", router=main, versus=name)
            assert lost.estimate == pytest.approx(lead)
            assert lost.x == n_parameters(resolve(main))  # else named as in chapter 4
    assert it.by_training(study).empty  # these encoders do not say


def test_checkpoints_are_found_by_name_from_what_training_began_with(study):
    places = it.checkpoints(study)
    steps = [0, *(int(name.rpartition("-")[2]) for name in list(places.values())[1:-1])]
    last = places[max(places)]
    assert read_json(resolve(last).location / "recipe.json")["step"] == max(places) > steps[-1]
    assert list(places) == [*steps, max(places)] and steps == sorted(steps)
    began = build_model(RECIPES[last.removeprefix("zoo/")]).base_model.state_dict()
    for name, weights in load_encoder(resolve(places[0]))[0].state_dict().items():
        np.testing.assert_allclose(weights, began[name], atol=1e-3)  # stored in half precision
