import numpy as np
import pytest

from prefill_router.evaluation.results import one, select
from prefill_router.experiments.scaling import SIZE, STEPS, checkpoints, scaling
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import n_parameters, resolve
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.training import build_model


def test_every_encoder_has_a_size_and_is_compared_with_the_main_one(study):
    found = scaling(study)
    main = study.parameters.encoder
    assert set(select(found, metric="AUC")["encoder"]) == set(study.encoders)
    for name in study.encoders:
        size = one(found, metric=SIZE, encoder=name)
        assert size.estimate == n_parameters(resolve(name)) > 0 and np.isnan(size.lower)
        if name != main:
            for metric in ("AUC", "gap closed"):
                difference = one(found, metric=metric, encoder=main, versus=name).estimate
                a, b = (one(found, metric=metric, encoder=e).estimate for e in (main, name))
                assert difference == pytest.approx(a - b)
    assert select(found, metric=STEPS).empty  # these encoders do not say


def test_the_first_checkpoint_is_what_training_began_with(study):
    places = checkpoints(study)
    assert list(places) == [f"zoo/reader-m-step-{step}" for step in (0, 250, 1000)] + [
        "zoo/reader-m"
    ]
    mine = load_encoder(resolve(places["zoo/reader-m-step-0"]))[0].state_dict()
    began = build_model(RECIPES["reader-m"]).base_model.state_dict()
    for name, weights in mine.items():
        np.testing.assert_allclose(weights, began[name], atol=1e-3)  # stored in half precision
