import numpy as np
import pytest

from prefill_router.evaluation.estimates import pick
from prefill_router.experiments.scaling import SIZE, STEPS, checkpoints, scaling
from prefill_router.extraction.model_size import n_parameters
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import resolve
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.training import build_model


def test_every_encoder_has_a_size_and_is_compared_with_the_main_one(study):
    found = scaling(study)
    main = study.parameters.encoder
    assert {r.router for r in found if r.metric == "AUC"} == set(study.encoders)
    for name in study.encoders:
        size = pick(found, SIZE, name)
        assert size.estimate == n_parameters(resolve(name)) > 0 and np.isnan(size.lower)
        if name != main:
            difference = pick(found, "AUC difference", f"{main} - {name}").estimate
            a, b = (pick(found, "AUC", encoder).estimate for encoder in (main, name))
            assert difference == pytest.approx(a - b)
            pick(found, "gap closed difference", f"{main} - {name}")
    assert not [r for r in found if r.metric == STEPS]  # these encoders do not say


def test_the_first_checkpoint_is_what_training_began_with(study):
    places = checkpoints(study)
    assert list(places) == [f"zoo/reader-m-step-{step}" for step in (0, 250, 1000)] + [
        "zoo/reader-m"
    ]
    mine = load_encoder(resolve(places["zoo/reader-m-step-0"]))[0].state_dict()
    began = build_model(RECIPES["reader-m"]).base_model.state_dict()
    for name, weights in mine.items():
        np.testing.assert_allclose(weights, began[name], atol=1e-3)  # stored in half precision
