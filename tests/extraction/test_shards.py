import numpy as np
import pytest
from safetensors.numpy import load_file

from prefill_router.errors import InputError
from prefill_router.extraction.shards import Shard, write_shard


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=(5, 4)).astype(np.float32) for key in ("last.000", "mean.000")}


def opened(path, owner="me", keys=("last.000", "mean.000"), shape=(5, 4)):
    return Shard.open(path, owner, set(keys), shape)


def test_a_shard_is_read_as_written(tmp_path, tensors):
    path = tmp_path / "s.safetensors"
    write_shard(path, "me", tensors)
    assert list(tmp_path.iterdir()) == [path]
    shard = opened(path)
    for key, states in tensors.items():
        np.testing.assert_array_equal(shard.read(key), states)
    assert shard.not_finite == {}


def test_every_single_byte_counts(tmp_path, tensors):
    """A shard with any one byte altered is refused, or what is read is what was written."""
    path = tmp_path / "s.safetensors"
    write_shard(path, "me", tensors)
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        try:
            shard = opened(path)
            for key, states in tensors.items():
                np.testing.assert_array_equal(shard.read(key), states)
        except InputError:
            refused += 1
    assert refused > 0.9 * len(whole)


@pytest.mark.parametrize(
    "other", [{"owner": "you"}, {"keys": ["last.000"]}, {"shape": (4, 4)}, {"shape": (5, 3)}]
)
def test_a_shard_that_is_not_the_one_meant_is_refused(tmp_path, tensors, other):
    path = tmp_path / "s.safetensors"
    write_shard(path, "me", tensors)
    with pytest.raises(InputError, match="not the file that was written"):
        opened(path, **other)


def test_half_precision_halves_the_file_and_rounds(tmp_path, tensors):
    path = tmp_path / "s.safetensors"
    write_shard(path, "me", tensors, "float16")
    assert load_file(path)["mean.000"].dtype == np.float16
    read = opened(path).read("mean.000")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, tensors["mean.000"].astype(np.float16).astype(np.float32))


def test_what_half_precision_cannot_hold_is_refused(tmp_path, tensors):
    path = tmp_path / "s.safetensors"
    tensors["mean.000"][3, 2] = -70_000
    with pytest.raises(InputError, match=r"mean.000.* float32"):
        write_shard(path, "me", tensors, "float16")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="storage_dtype 'float8'"):
        write_shard(path, "me", tensors, "float8")


@pytest.mark.parametrize("storage_dtype", ["float32", "float16"])
def test_rows_that_are_not_finite_are_listed(tmp_path, tensors, storage_dtype):
    path = tmp_path / "s.safetensors"
    tensors["mean.000"][3, 2], tensors["mean.000"][1, 0] = np.nan, -np.inf
    write_shard(path, "me", tensors, storage_dtype)
    shard = opened(path)
    assert shard.not_finite == {"mean.000": [1, 3]}
    assert np.isnan(shard.read("mean.000")[3, 2])
