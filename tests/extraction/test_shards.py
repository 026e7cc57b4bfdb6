import numpy as np
import pytest
from safetensors import safe_open

from prefill_router.errors import InputError
from prefill_router.extraction.activations import Activations, EncoderInfo
from prefill_router.extraction.shards import Folder
from prefill_router.storage import MANIFEST, read_json, write_json

QUERIES = [f"query {i}" for i in range(7)]
PLACES = [(layer, pooling) for layer in (0, 2, 5) for pooling in ("last", "mean")]


@pytest.fixture
def states(rng):
    return {place: rng.normal(size=(7, 4)).astype(np.float32) for place in PLACES}


def write(path, states, storage_dtype="float32", parts=((6, 1, 4), (0, 2), (5, 3))):
    folder = Folder(path, [])
    folder.describe(
        {
            "key": {"storage_dtype": storage_dtype},
            "encoder": vars(EncoderInfo("e", None, "w")),
            "width": 4,
            "last_layer": 5,
        }
    )
    for rows in map(np.array, parts):
        asked = [QUERIES[row] for row in rows]
        folder.add(asked, rows, rows + 1, {at: values[rows] for at, values in states.items()})
    return path


def shards(path):
    return sorted(path.glob("shard-*"))


def test_what_is_written_is_read_in_the_order_of_the_queries(tmp_path, states):
    path = write(tmp_path / "a", states)
    asked = [3, 0, 0, 6]
    for rows in (range(7), asked):
        found = Activations.open(path, [QUERIES[row] for row in rows])
        assert (found.layers, found.poolings, found.width) == ([0, 2, 5], ["last", "mean"], 4)
        assert found.n_tokens.tolist() == list(rows)
        assert found.n_truncated == len(rows)
        for place in PLACES:
            np.testing.assert_array_equal(found.states(*place), states[place][list(rows)])
            assert found.states(*place).dtype == np.float32
    asked = [QUERIES[0], "new", QUERIES[0], "new"]
    ((places, rows),) = Folder(path, asked).missing(PLACES)
    assert (places, rows.tolist()) == (PLACES, [1])


def test_the_same_states_are_the_same_files(tmp_path, states):
    one, other = write(tmp_path / "a", states), write(tmp_path / "b", states)
    assert [p.name for p in one.iterdir()] == [p.name for p in other.iterdir()]
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_one_layer_is_read_from_its_own_bytes_alone(tmp_path, states):
    """Whatever happens to all other layers' bytes."""
    written = write(tmp_path / "a", states)
    for path in shards(written):
        content = bytearray(path.read_bytes())
        data = 8 + int.from_bytes(content[:8], "little")
        with safe_open(path, "numpy") as file:
            spared = [file.get_tensor(name).tobytes() for name in ("mean.002", "queries")]
            spared += [file.get_tensor(name).tobytes() for name in ("n_tokens", "full_tokens")]
        kept = {at + i for part in spared for at in [content.index(part, data)]
                for i in range(len(part))}  # fmt: skip
        for place in set(range(data, len(content))) - kept:
            content[place] ^= 0xFF
        path.write_bytes(content)
    found = Activations.open(written, QUERIES)
    np.testing.assert_array_equal(found.states(2, "mean"), states[2, "mean"])
    for layer, pooling in ((2, "last"), (0, "mean"), (5, "last")):
        with pytest.raises(InputError, match=rf"{pooling}.00{layer} is not what was written"):
            found.states(layer, pooling)


@pytest.mark.parametrize("damage", ["short", "empty", "renamed", "header", "queries"])
def test_damaged_shards_are_named(tmp_path, states, damage):
    path = shards(write(tmp_path / "a", states))[1]
    content = path.read_bytes()
    if damage == "renamed":
        path = path.rename(path.with_name("shard-0123456789abcdef.safetensors"))
    elif damage == "header":
        path.write_bytes(content.replace(b"not_finite", b"not_FINITE"))
    elif damage == "queries":
        with safe_open(path, "numpy") as file:
            digests = file.get_tensor("queries").tobytes()
        path.write_bytes(content.replace(digests, digests[::-1]))
    else:
        path.write_bytes(content[: -10 if damage == "short" else 0])
    with pytest.raises(InputError, match=rf"{path.name}.*delete it"):
        Activations.open(path.parent, QUERIES)


def test_a_shard_of_another_folder_is_refused(tmp_path, states):
    one = write(tmp_path / "a", states)
    other = write(tmp_path / "b", states, storage_dtype="float16")
    stray = shards(other)[0].rename(one / shards(other)[0].name)
    with pytest.raises(InputError, match=f"{stray.name} is not the file"):
        Activations.open(one, QUERIES)
    stray.unlink()
    manifest = read_json(one / MANIFEST)
    write_json(one / MANIFEST, manifest | {"last_layer": 2})  # "all" would be fewer layers
    with pytest.raises(InputError, match="is not the file"):
        Activations.open(one, QUERIES)


def test_missing_queries_and_layers_are_counted(tmp_path, states):
    path = write(tmp_path / "a", states)
    with pytest.raises(InputError, match="holds no activations"):
        Activations.open(tmp_path / "nowhere", QUERIES)
    with pytest.raises(InputError, match="lacks states of 1 of 8 queries; extract again"):
        Activations.open(path, [*QUERIES, "another"])
    with pytest.raises(InputError, match="lacks states of 7 of 7"):
        Activations.open(path, QUERIES, layers=[1])


def test_states_that_are_not_finite_are_named_and_their_layers_left_out(tmp_path, states):
    states[2, "last"][4, 1], states[2, "mean"][2] = np.inf, np.nan
    path = write(tmp_path / "a", states)
    with pytest.warns(UserWarning, match=r"layer 2 \(last\): query 4; layer 2 \(mean\): query 2\."):
        found = Activations.open(path, QUERIES)
    assert found.layers == [0, 5]
    np.testing.assert_array_equal(found.states(5, "mean"), states[5, "mean"])
    assert Activations.open(path, QUERIES[:2]).layers == [0, 2, 5]


def test_half_precision(tmp_path, states):
    found = Activations.open(write(tmp_path / "a", states, "float16"), QUERIES)
    half = states[2, "mean"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found.states(2, "mean"), half)
    states[2, "mean"][3, 1] = 70_000
    with pytest.raises(InputError, match=r"7e\+04 \(mean.002\) does not fit into float16"):
        write(tmp_path / "b", states, "float16")
