import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from standin import predictable

from prefill_router.errors import InputError
from prefill_router.features import TargetFeatures
from prefill_router.features.selection import Choice


def test_features_equal_scikit_learn_and_share_decompositions(rng):
    activations, _, _ = predictable(rng)
    choices = [Choice("e", 1, "mean", 3), Choice("e", 1, "mean", 6), Choice("e", 0, "mean", 2)]
    rows = np.arange(70)
    features = TargetFeatures(choices).fit({"e": activations}, rows)
    parts = features.transform({"e": activations})
    assert [part.shape for part in parts] == [(120, 3), (120, 6), (120, 2)]
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    assert features.components_.places == [("e", 1, "mean"), ("e", 0, "mean")]
    states = activations.states(1, "mean").astype(np.float64)
    reduction = make_pipeline(StandardScaler(), PCA(6, svd_solver="full")).fit(states[rows])
    np.testing.assert_allclose(np.abs(parts[1]), np.abs(reduction.transform(states)), atol=1e-5)
    np.testing.assert_array_equal(parts[0], parts[1][:, :3])


def test_missing_states_are_named(rng):
    activations, _, _ = predictable(rng)
    for choice, message in (
        (Choice("ee", 1, "mean", 3), "Did you mean 'e'"),
        (Choice("e", 9, "mean", 3), r"no layer 9; it has \[0, 1\]"),
        (Choice("e", 1, "max", 3), "no pooling 'max'"),
    ):
        with pytest.raises(InputError, match=message):
            TargetFeatures([choice]).fit({"e": activations}, np.arange(10))
