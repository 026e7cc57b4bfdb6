import json
import warnings

import numpy as np
import pytest
import tiny_activations
from safetensors import safe_open
from tiny_activations import LAYERS, N_TOKENS, POOLINGS

from prefill_router.errors import InputError
from prefill_router.extraction.activations import StoredStates
from prefill_router.extraction.layout import PLAN
from prefill_router.storage import MANIFEST, read_json, verify, write_json


@pytest.fixture
def states():
    return tiny_activations.states()


@pytest.fixture
def written(tmp_path, states):
    return tiny_activations.write(tmp_path / "a", states)


def test_what_is_written_is_read_in_the_order_of_the_queries(written, states):
    activations = StoredStates.open(written)
    assert len(activations.shards) > 1
    assert (activations.layers, activations.poolings) == (LAYERS, POOLINGS)
    assert (activations.n_queries, activations.width) == (7, 4)
    assert activations.full_tokens.tolist() == N_TOKENS.tolist()
    assert activations.n_tokens.tolist() == np.minimum(N_TOKENS, 8).tolist()
    assert activations.n_truncated == 2
    for i, layer in enumerate(LAYERS):
        for j, pooling in enumerate(POOLINGS):
            read = activations.states(layer, pooling)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, states[i, j])
            rows = np.array([6, 0, 0, 3])
            np.testing.assert_array_equal(
                activations.take(layer, pooling, rows), states[i, j, rows]
            )


def test_the_same_states_are_the_same_bytes(written, tmp_path, states):
    again = tiny_activations.write(tmp_path / "b", states)
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (written / name).read_bytes() == (again / name).read_bytes()
    verify(written)  # and they are what the manifest says


def test_one_layer_is_read_from_its_own_bytes_alone(written, states):
    """Whatever happens to all other layers' bytes."""
    for path in written.glob("shard-*"):
        content = bytearray(path.read_bytes())
        with safe_open(path, "numpy") as file:
            kept = file.get_tensor("mean.002").tobytes()
        start = content.index(kept)
        data = 8 + int.from_bytes(content[:8], "little")
        for place in (*range(data, start), *range(start + len(kept), len(content))):
            content[place] ^= 0xFF
        path.write_bytes(content)
    activations = StoredStates.open(written)
    np.testing.assert_array_equal(activations.states(2, "mean"), states[1, 1])
    for layer, pooling in ((2, "last"), (0, "mean"), (5, "last")):
        with pytest.raises(InputError, match=rf"{pooling}.00{layer} is not what was written"):
            activations.states(layer, pooling)


def test_unknown_layer_and_pooling(written):
    activations = StoredStates.open(written)
    with pytest.raises(InputError, match=r"layer 1 .*\[0, 2, 5\]"):
        activations.states(1, "last")
    with pytest.raises(InputError, match="Did you mean 'mean'"):
        activations.states(2, "meen")


def test_nothing_unfinished_or_of_another_version_is_opened(written, tmp_path):
    with pytest.raises(InputError, match="no activations"):
        StoredStates.open(tmp_path / "nowhere")
    manifest = read_json(written / MANIFEST)
    write_json(written / MANIFEST, manifest | {"format": 99})
    with pytest.raises(InputError, match="another version"):
        StoredStates.open(written)
    (written / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        StoredStates.open(written)
    (written / MANIFEST).unlink()
    with pytest.raises(InputError, match="not finished"):
        StoredStates.open(written)


@pytest.mark.parametrize("name", [PLAN, "shard-000001.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "short", "empty", "another"])
def test_missing_damaged_and_foreign_files_are_named(written, tmp_path, states, name, damage):
    path = written / name
    if damage == "missing":
        path.unlink()
    elif damage == "another":  # of an extraction of the same shape
        other = tiny_activations.layout(key={"questions": "others"})
        other.save(tmp_path)
        (tmp_path / PLAN).replace(written / PLAN)
        manifest = read_json(written / MANIFEST)
        manifest["files"][PLAN] = "0" if name == PLAN else verify_hash(written / PLAN)
        write_json(written / MANIFEST, manifest)
        name = name if name == PLAN else "shard-000000.safetensors"
    else:
        path.write_bytes(path.read_bytes()[: -10 if damage == "short" else 0])
    with pytest.raises(InputError, match=rf"{name} .*delete"):
        StoredStates.open(written)


def verify_hash(path):
    from prefill_router.storage import file_hash

    return file_hash(path)


def test_states_that_are_not_finite_are_named_and_their_layers_left_out(tmp_path, states):
    states[1, 0, 4, 1] = np.inf
    states[1, 1, 2] = np.nan
    written = tiny_activations.write(tmp_path / "a", states)
    with pytest.warns(UserWarning, match=r"last.002: query 4; mean.002: query 2\)"):
        activations = StoredStates.open(written)
    assert activations.layers == [0, 5]
    np.testing.assert_array_equal(activations.states(5, "mean"), states[2, 1])
    for pooling in POOLINGS:
        with pytest.raises(InputError, match=r"last.002: query 4"):
            activations.states(2, pooling)
    np.testing.assert_array_equal(activations.take(2, "last", np.arange(7)), states[1, 0])


def test_if_no_layer_is_left_that_is_an_error(tmp_path, states):
    states[:, :, :] = np.nan
    written = tiny_activations.write(tmp_path / "a", states)
    found = json.loads((written / MANIFEST).read_text())["not_finite"]["mean.005"]
    assert found == {"count": 7, "first": [0, 1, 2, 3, 4]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"query 0, 1, 2, 3, 4 and 2 more.* No layer is left"):
            StoredStates.open(written)
