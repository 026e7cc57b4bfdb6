import numpy as np
import pytest

from prefill_router.features import TargetFeatures
from prefill_router.features.selection import Choice
from prefill_router.recipe.calibration import Calibration
from prefill_router.router.heads import fold, merge_inputs
from prefill_router.trunk import SharedTrunkEnsemble


class Held:
    """States of two layers and two poolings; one column never varies."""

    layers, poolings, width = [0, 1], ["last", "mean"], 12

    def __init__(self, n=150):
        rng = np.random.default_rng(0)
        self.held = {
            (layer, pooling): (rng.normal(size=(n, 12)) * 3 + 50).astype(np.float32)
            for layer in self.layers
            for pooling in self.poolings
        }
        for states in self.held.values():
            states[:, 4] = 7

    def states(self, layer, pooling):
        return self.held[layer, pooling]


@pytest.fixture(scope="module")
def parts():
    activations, rng = Held(), np.random.default_rng(1)
    choices = [
        Choice("", 1, "mean", 4),
        Choice("", 0, "last", 9),
        Choice("", 1, "mean", 6),  # the first target's place again, with other columns
        Choice("", 0, "last", 40),  # more than there are
    ]
    features = TargetFeatures(choices).fit({"": activations}, np.arange(100))
    x = np.hstack(features.transform({"": activations}))
    Y = (rng.random((150, 4)) < 0.5).astype(float)
    Y[:, 3] = np.nan
    ensemble = SharedTrunkEnsemble(3, 2, max_epochs=5).fit(x[:100], Y[:100])
    calibration = Calibration(
        ["beta", "platt", "isotonic", "identity"],
        np.array([[1.2, 0.8, 0.1], [2, 2, -1], [1, 1, 0], [1, 1, 0]]),
        {2: np.array([[0.2, 0.5, 0.8], [0.1, 0.5, 0.5]])},
    )
    return activations, features, x, ensemble, calibration


def test_folding_changes_nothing_but_rounding(parts):
    activations, features, x, ensemble, calibration = parts
    heads = fold(features, ensemble, calibration)
    assert heads.places == [(1, "mean"), (0, "last")]
    states = np.stack([activations.states(*place) for place in heads.places])
    expected = ensemble.predict_proba(x)
    components = heads.features(states)
    np.testing.assert_allclose(heads.raw(components), expected, atol=2e-6)
    np.testing.assert_allclose(
        heads.probabilities(components), calibration.apply(expected), atol=1e-5
    )
    assert (heads.raw(components)[:, 3] == 0.5).all()
    one = heads.features(states[:, 7:8])
    np.testing.assert_allclose(heads.raw(one), expected[7:8], atol=2e-6)


def test_inputs_that_repeat_are_merged():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(5, 6))
    weight = rng.normal(size=(2, 3 + 2 + 3, 4))
    starts, dimensions = [0, 3, 0], [3, 2, 3]
    repeated = np.hstack([columns[:, s : s + d] for s, d in zip(starts, dimensions, strict=True)])
    merged = merge_inputs(weight, starts, dimensions, 6)
    np.testing.assert_allclose(np.matmul(columns, merged), np.matmul(repeated, weight))
