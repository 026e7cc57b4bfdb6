"""States on disk: shards that say for themselves what they hold, found again by query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import MANIFEST, atomic_write, fingerprint, read_json, write_json

STORAGE = {"float32": np.float32, "float16": np.float16}
HEADER = "shard"
REMEDY = "delete it to have it made again."
QUERIES, N_TOKENS, FULL_TOKENS = "queries", "n_tokens", "full_tokens"


def query_digest(query: str) -> bytes:
    """Return 16 bytes that identify a query."""
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()[:16]


def distinct(queries: Sequence[str]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Return the digests of distinct queries, the first of each, and each query's among them."""
    numbers: dict[bytes, int] = {}
    rows = np.array([numbers.setdefault(query_digest(query), len(numbers)) for query in queries])
    return list(numbers), np.unique(rows, return_index=True)[1], rows


def tensor_name(layer: int, pooling: str) -> str:
    """Return the name of one layer's tensor in a shard, such as ``mean.003``."""
    return f"{pooling}.{layer:03d}"


def check_storage(name: str) -> type[np.floating]:
    """Return the NumPy type that a storage type's name stands for, or raise InputError."""
    if name not in STORAGE:
        raise InputError(f"storage_dtype {name!r} is unknown." + did_you_mean(name, STORAGE))
    return STORAGE[name]


@dataclass(frozen=True)
class Shard:
    """A file of states, named by what it holds, whose header was read.

    Attributes
    ----------
    path : pathlib.Path
    hashes : dict of str to str
        What identifies each tensor's content: `QUERIES` (n, 16), `N_TOKENS` and `FULL_TOKENS` (n,),
        and states (n, D) by `tensor_name`.
    not_finite : dict of str to list of int
        Rows, within the shard, of states that are not all numbers, by tensor.
    """

    path: Path
    hashes: dict[str, str]
    not_finite: dict[str, list[int]]

    @classmethod
    def open(cls, path: Path, owner: str) -> Shard:
        """Read a shard's header, and no tensor.

        Raises
        ------
        InputError
            If the file is cut short, damaged, or not of this owner.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads(file.metadata()[HEADER])
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); {REMEDY}") from error
        if path.name != _shard_name(header) or header["owner"] != owner:
            raise InputError(f"{path} is not the file that was written there; {REMEDY}")
        return cls(path, header["hashes"], header["not_finite"])

    def read(self, name: str) -> np.ndarray:
        """Return one tensor, and touch no other.

        Raises
        ------
        InputError
            If its content is not what was written.
        """
        try:
            with safe_open(self.path, framework="numpy") as file:
                tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.path} cannot be read ({error}); {REMEDY}") from error
        if fingerprint(tensor) != self.hashes[name]:
            raise InputError(f"{self.path}: {name} is not what was written; {REMEDY}")
        return tensor


def _shard_name(header: dict[str, Any]) -> str:
    return f"shard-{fingerprint(header)}.safetensors"


class Folder:
    """States of one encoder, read in one way, of any number of queries.

    A manifest, written first, says what they are; each shard is there whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the states are, None before anything was written."""
        return read_json(self.path / MANIFEST) if (self.path / MANIFEST).is_file() else None

    def describe(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, unless there is one, and remove what a killed process had begun."""
        for begun in self.path.glob(".*.*"):
            begun.unlink()
        if self.manifest is None:
            write_json(self.path / MANIFEST, manifest)

    def add(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Write a shard.

        Parameters
        ----------
        tensors : mapping of str to ndarray
            As in `Shard`.

        Raises
        ------
        InputError
            If a state does not fit into the folder's type.
        """
        manifest = self.manifest
        storage = manifest["key"]["storage_dtype"]
        dtype, stored, not_finite = check_storage(storage), {}, {}
        for name, values in tensors.items():
            stored[name] = np.ascontiguousarray(values)
            if values.dtype != np.float32:
                continue
            finite = np.isfinite(values)
            largest = float(np.abs(values, where=finite, out=np.zeros_like(values)).max(initial=0))
            if largest > float(np.finfo(dtype).max):
                raise InputError(
                    f"A state of {largest:.3g} ({name}) does not fit into {storage}; set "
                    "storage_dtype to float32."
                )
            stored[name] = stored[name].astype(dtype, copy=False)
            if not finite.all():
                not_finite[name] = np.flatnonzero(~finite.all(axis=1)).tolist()
        hashes = {name: fingerprint(values) for name, values in stored.items()}
        header = {"owner": fingerprint(manifest), "hashes": hashes, "not_finite": not_finite}
        # One entry of metadata: safetensors writes several in no fixed order.
        content = save(stored, {HEADER: json.dumps(header, sort_keys=True)})
        with atomic_write(self.path / _shard_name(header)) as temporary:
            temporary.write_bytes(content)

    def find(self, digests: Sequence[bytes]) -> Held:
        """Return what is held of some queries, each named once by its `query_digest`.

        Raises
        ------
        InputError
            If a shard is damaged or of another owner.
        """
        manifest, parts = self.manifest, []
        if manifest is None:
            return Held(len(digests), 0, [])
        rows = {digest: row for row, digest in enumerate(digests)}
        for path in sorted(self.path.glob("shard-*.safetensors")):
            shard = Shard.open(path, fingerprint(manifest))
            row = [rows.get(digest.tobytes(), -1) for digest in shard.read(QUERIES)]
            parts.append((shard, np.array(row, dtype=np.int64)))
        return Held(len(digests), manifest["width"], parts)


@dataclass(frozen=True)
class Held:
    """What a folder holds of N queries.

    Attributes
    ----------
    n_queries : int
    width : int
        D.
    parts : list of (Shard, int64 ndarray)
        A shard, and of each of its rows the query's number, or -1.
    """

    n_queries: int
    width: int
    parts: list[tuple[Shard, np.ndarray]]

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return {name for shard, _ in self.parts for name in shard.hashes}

    def has(self, name: str) -> np.ndarray:
        """Return which queries have a tensor's values, bool (N,)."""
        held = np.zeros(self.n_queries, dtype=bool)
        for shard, row in self.parts:
            if name in shard.hashes:
                held[row[row >= 0]] = True
        return held

    def tokens(self, name: str) -> np.ndarray:
        """Return `N_TOKENS` or `FULL_TOKENS` of each query, int64 (N,)."""
        return self._read(name, np.empty(self.n_queries, np.int64))

    def states(self, layer: int, pooling: str) -> np.ndarray:
        """Return one layer's states of each query, float32 (N, D)."""
        states = np.empty((self.n_queries, self.width), np.float32)
        return self._read(tensor_name(layer, pooling), states)

    def _read(self, name: str, values: np.ndarray) -> np.ndarray:
        for shard, row in self.parts:
            if name in shard.hashes and (row >= 0).any():
                values[row[row >= 0]] = shard.read(name)[row >= 0]
        return values

    def not_finite(self, layer: int, pooling: str) -> np.ndarray:
        """Return the queries whose states are not all numbers, sorted."""
        name = tensor_name(layer, pooling)
        bad = [row[shard.not_finite.get(name, [])] for shard, row in self.parts]
        rows = np.unique(np.concatenate([np.empty(0, np.int64), *bad]))
        return rows[rows >= 0]
