import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefill_router.activations import FILE, Activations, write_activations
from prefill_router.errors import InputError

LAYERS, POOLINGS = [0, 2, 5], ["last", "mean"]


@pytest.fixture
def states():
    return np.random.default_rng(0).normal(size=(3, 2, 7, 4)).astype(np.float32)


@pytest.fixture
def written(tmp_path, states):
    write_activations(tmp_path, states, LAYERS, POOLINGS, np.arange(7) + 1, n_truncated=2)
    return tmp_path


def test_what_is_written_is_read(written, states):
    activations = Activations.open(written)
    assert (activations.layers, activations.poolings) == (LAYERS, POOLINGS)
    assert (activations.n_queries, activations.width, activations.n_truncated) == (7, 4, 2)
    assert activations.n_tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
    for i, layer in enumerate(LAYERS):
        for j, pooling in enumerate(POOLINGS):
            read = activations.states(layer, pooling)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, states[i, j])


def test_the_same_states_are_the_same_bytes(written, tmp_path, states):
    write_activations(tmp_path / "b", states, LAYERS, POOLINGS, np.arange(7) + 1, n_truncated=2)
    assert (tmp_path / "b" / FILE).read_bytes() == (written / FILE).read_bytes()


def test_half_precision_halves_the_file_and_rounds(tmp_path, states):
    write_activations(tmp_path, states, LAYERS, POOLINGS, np.ones(7), storage_dtype="float16")
    assert load_file(tmp_path / FILE)["mean.005"].dtype == np.float16
    read = Activations.open(tmp_path).states(5, "mean")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, states[2, 1].astype(np.float16).astype(np.float32))


def test_what_half_precision_cannot_hold_is_refused(tmp_path, states):
    states[1, 1, 3, 2] = -70_000
    with pytest.raises(InputError, match="float32"):
        write_activations(tmp_path, states, LAYERS, POOLINGS, np.ones(7), storage_dtype="float16")
    assert not (tmp_path / FILE).exists()
    with pytest.raises(InputError, match="storage_dtype 'float8'"):
        write_activations(tmp_path, states, LAYERS, POOLINGS, np.ones(7), storage_dtype="float8")


def test_unknown_layer_and_pooling(written):
    activations = Activations.open(written)
    with pytest.raises(InputError, match=r"layer 1 .*\[0, 2, 5\]"):
        activations.states(1, "last")
    with pytest.raises(InputError, match="Did you mean 'mean'"):
        activations.states(2, "meen")


def test_missing_damaged_and_foreign_files(written, tmp_path):
    with pytest.raises(InputError, match="no activations"):
        Activations.open(tmp_path / "nowhere")
    path = written / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="not a readable file"):
        Activations.open(written)
    save_file({"n_tokens": np.ones(3)}, path)
    with pytest.raises(InputError, match="not a readable file"):
        Activations.open(written)


@pytest.mark.parametrize("damage", ["drop", "shape"])
def test_tensors_must_be_those_of_the_header(written, damage):
    from safetensors import safe_open

    path = written / FILE
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if damage == "drop":
        del tensors["last.002"]
    else:
        tensors["last.002"] = tensors["last.002"][:-1]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(InputError, match="its tensors are not those"):
        Activations.open(written)
