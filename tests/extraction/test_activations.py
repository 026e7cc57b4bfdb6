import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.extraction.activations import Activations


def test_activations_of_ones_own_arrays(rng):
    X, Z = rng.normal(size=(2, 5, 3))
    states = Activations.from_arrays({(12, "mean"): X, (4, "mean"): Z}, n_tokens=[1, 2, 3, 4, 5])
    assert (states.layers, states.poolings, states.width, len(states)) == ([4, 12], ["mean"], 3, 5)
    assert states.encoder is None
    np.testing.assert_array_equal(states.states(4, "mean"), Z.astype(np.float32))
    assert states.full_tokens.tolist() == [1, 2, 3, 4, 5]
    assert states.key == Activations.from_arrays({(4, "mean"): Z, (12, "mean"): X}, range(1, 6)).key
    assert states.key != Activations.from_arrays({(4, "mean"): X, (12, "mean"): Z}, range(1, 6)).key


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({}, r"the shapes are set\(\)"),
        ({(1, "mean"): np.ones(3)}, r"one shape \(N, D\)"),
        ({(1, "mean"): np.ones((3, 2)), (2, "mean"): np.ones((3, 3))}, "the shapes are"),
        ({(1, "mean"): np.ones((3, 2)), (2, "last"): np.ones((3, 2))}, r"lack \[\(1, 'last'\)"),
        (
            {(1, "mean"): [[1.0], *[[np.nan]] * 7]},
            r"layer 1 \(mean\): query 1, 2, 3, 4, 5 and 2 "
            r"more\..* No layer is left",
        ),
    ],
)
def test_arrays_that_are_no_states_are_refused(states, said):
    with pytest.raises(InputError, match=said):
        Activations.from_arrays(states)


def test_unknown_places_and_lengths_are_said():
    states = Activations.from_arrays({(1, "mean"): np.ones((3, 2))})
    with pytest.raises(InputError, match=r"layer 2; there are \[1\]"):
        states.states(2, "mean")
    with pytest.raises(InputError, match="Did you mean 'mean'"):
        states.states(1, "meen")
    with pytest.raises(InputError, match="give n_tokens"):
        _ = states.full_tokens
    with pytest.raises(InputError, match=r"shape \(2,\); it must be \(3,\)"):
        Activations.from_arrays({(1, "mean"): np.ones((3, 2))}, n_tokens=[1, 2])
