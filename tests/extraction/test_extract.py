import numpy as np
import pytest
import tiny_models

from prefill_router.errors import InputError
from prefill_router.extraction import extract
from prefill_router.extraction.activations import Activations
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import resolve, weights_hash

QUESTIONS = tiny_models.questions(20)


def test_memory_and_disk_hold_the_same(saved, tmp_path):
    memory = extract(saved, QUESTIONS, layers=[1, 3], truncation="left", max_tokens=6)
    disk = extract(
        saved, QUESTIONS, layers=[1, 3], truncation="left", max_tokens=6, cache_dir=tmp_path
    )
    pair = extract(load_encoder(resolve(str(saved))), QUESTIONS, truncation="left", max_tokens=6)
    assert memory.layers == disk.layers == [1, 3]
    assert len(memory) == len(disk) == 20
    assert memory.encoder == disk.encoder
    assert memory.encoder.weights == weights_hash(resolve(str(saved)))
    assert (memory.encoder.max_tokens, memory.encoder.truncation) == (6, "left")
    assert pair.encoder is None
    assert memory.full_tokens.tolist() == disk.full_tokens.tolist()
    assert memory.n_tokens.max() == 6
    for other in (disk, pair):
        np.testing.assert_array_equal(memory.states(3, "mean"), other.states(3, "mean"))


def test_activations_of_ones_own_arrays(rng):
    X, Z = rng.normal(size=(2, 5, 3))
    states = Activations.from_arrays({(12, "mean"): X, (4, "mean"): Z}, n_tokens=[1, 2, 3, 4, 5])
    assert (states.layers, states.poolings, states.width, len(states)) == ([4, 12], ["mean"], 3, 5)
    np.testing.assert_array_equal(states.states(4, "mean"), Z.astype(np.float32))
    assert states.full_tokens.tolist() == [1, 2, 3, 4, 5]
    assert states.key == Activations.from_arrays({(4, "mean"): Z, (12, "mean"): X}, range(1, 6)).key
    assert states.key != Activations.from_arrays({(4, "mean"): X, (12, "mean"): Z}, range(1, 6)).key


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({}, "any array"),
        ({(1, "mean"): np.ones(3)}, r"one shape \(N, D\)"),
        ({(1, "mean"): np.ones((3, 2)), (2, "mean"): np.ones((3, 3))}, "one shape"),
        ({(1, "mean"): np.ones((3, 2)), (2, "last"): np.ones((3, 2))}, r"lack \[\(1, 'last'\)"),
        ({(1, "mean"): [[1.0], [np.nan]]}, r"query 1 at layer 1 \(mean\) is not finite"),
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
