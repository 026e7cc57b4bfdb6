"""One file of pooled states, that says for itself whether it is what was written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import atomic_write

STORAGE = {"float32": np.float32, "float16": np.float16}
HEADER = "shard"


def tensor_key(layer: int, pooling: str) -> str:
    """Return the name of one layer's tensor in a shard, such as ``mean.003``."""
    return f"{pooling}.{layer:03d}"


def check_storage(name: str) -> type[np.floating]:
    """Return the NumPy type that a storage type's name stands for, or raise InputError."""
    if name not in STORAGE:
        raise InputError(f"storage_dtype {name!r} is unknown." + did_you_mean(name, STORAGE))
    return STORAGE[name]


def write_shard(
    path: Path, owner: str, tensors: dict[str, np.ndarray], storage_dtype: str = "float32"
) -> None:
    """Write a shard, atomically: it is there and whole, or not there.

    Parameters
    ----------
    path : pathlib.Path
    owner : str
        What the shard belongs to; `Shard.open` must be told the same.
    tensors : dict of str to float32 ndarray of shape (n, D)
        Named by `tensor_key`.
    storage_dtype : {"float32", "float16"}, default "float32"
        Type on disk.

    Raises
    ------
    InputError
        If a state does not fit into `storage_dtype`.
    """
    dtype = check_storage(storage_dtype)
    stored, hashes, not_finite = {}, {}, {}
    for key, states in tensors.items():
        finite = np.isfinite(states)
        largest = float(np.abs(states, where=finite, out=np.zeros_like(states)).max(initial=0))
        if largest > float(np.finfo(dtype).max):
            raise InputError(
                f"A state of {largest:.3g} ({key}) does not fit into {storage_dtype}; "
                "set storage_dtype to float32."
            )
        stored[key] = np.ascontiguousarray(states, dtype=dtype)
        hashes[key] = hashlib.sha256(stored[key].data).hexdigest()
        if not finite.all():
            not_finite[key] = np.flatnonzero(~finite.all(axis=1)).tolist()
    header = {"owner": owner, "sha256": hashes, "not_finite": not_finite}
    # One entry of metadata: safetensors writes several in no fixed order.
    content = save(stored, {HEADER: json.dumps(header, sort_keys=True)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


@dataclass(frozen=True)
class Shard:
    """A shard whose header was read; opened with `open`.

    Attributes
    ----------
    path : pathlib.Path
    hashes : dict of str to str
        The SHA-256 of each tensor's bytes.
    not_finite : dict of str to list of int
        The rows, within the shard, of states that are not all numbers, by tensor.
    """

    path: Path
    hashes: dict[str, str]
    not_finite: dict[str, list[int]]

    @classmethod
    def open(cls, path: Path, owner: str, keys: set[str], shape: tuple[int, int]) -> Shard:
        """Read a shard's header, and no state.

        Raises
        ------
        InputError
            If the file is missing, cut short, another owner's, or holds other tensors.
        """
        if not path.is_file():
            raise InputError(f"{path} is missing; {_remedy(path)}")
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads(file.metadata()[HEADER])
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.offset_keys()}
            found = header["owner"], header["sha256"].keys()
            not_finite = header["not_finite"]
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"{path} is cut short or damaged ({error}); {_remedy(path)}"
            ) from error
        if found != (owner, keys) or shapes != dict.fromkeys(keys, shape):
            raise InputError(f"{path} is not the file that was written there; {_remedy(path)}")
        return cls(path, header["sha256"], not_finite)

    def read(self, key: str) -> np.ndarray:
        """Return one tensor, float32 (n, D), and touch no other.

        Raises
        ------
        InputError
            If its bytes are not those that were written.
        """
        try:
            with safe_open(self.path, framework="numpy") as file:
                states = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.path} cannot be read ({error}).") from error
        if hashlib.sha256(np.ascontiguousarray(states).data).hexdigest() != self.hashes[key]:
            raise InputError(
                f"{self.path}: {key} is not what was written (its hash differs); "
                f"{_remedy(self.path)}"
            )
        return states.astype(np.float32, copy=False)


def _remedy(path: Path) -> str:
    return f"delete {path.parent} to have it made again."
