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

from prefill_router.errors import InputError
from prefill_router.storage import MANIFEST, atomic_write, fingerprint, read_json, write_json

STORAGE = ("float32", "float16")
HEADER = "shard"
REMEDY = "delete it to have it made again."
QUERIES, N_TOKENS, FULL_TOKENS = "queries", "n_tokens", "full_tokens"
Place = tuple[int, str]
"""A layer and a pooling."""


def query_digest(query: str) -> bytes:
    """Return 16 bytes that identify a query."""
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()[:16]


def tensor_name(layer: int, pooling: str) -> str:
    """Return the name of one layer's tensor in a shard, such as ``mean.003``."""
    return f"{pooling}.{layer:03d}"


def shard_name(header: Mapping[str, Any]) -> str:
    """Return the file name of a shard, which identifies its content."""
    return f"shard-{fingerprint(header)}.safetensors"


@dataclass(frozen=True)
class Shard:
    """A file of states whose header was read, and which of its rows are asked for.

    Attributes
    ----------
    path : pathlib.Path
    hashes : dict of str to str
        What identifies each tensor's content: `QUERIES` (n, 16), `N_TOKENS` and `FULL_TOKENS` (n,),
        and states (n, D) by `tensor_name`.
    not_finite : dict of str to list of int
        Rows of states that are not all numbers, by tensor.
    rows, numbers : int64 ndarray
        Rows asked for, and of each the number of its query.
    """

    path: Path
    hashes: dict[str, str]
    not_finite: dict[str, list[int]]
    rows: np.ndarray
    numbers: np.ndarray

    @classmethod
    def open(cls, path: Path, owner: str, numbers: Mapping[bytes, int]) -> Shard:
        """Read a shard's header and queries, and no state.

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
        if path.name != shard_name(header) or header["owner"] != owner:
            raise InputError(f"{path} is not the file that was written there; {REMEDY}")
        digests = _read(path, QUERIES, header["hashes"])
        found = np.array([numbers.get(digest.tobytes(), -1) for digest in digests], np.int64)
        rows = np.flatnonzero(found >= 0)
        return cls(path, header["hashes"], header["not_finite"], rows, found[rows])

    def read(self, name: str) -> np.ndarray:
        """Return a tensor's rows that are asked for; InputError if it is not what was written."""
        return _read(self.path, name, self.hashes)[self.rows]


def _read(path: Path, name: str, hashes: Mapping[str, str]) -> np.ndarray:
    """Return one tensor of a shard, and touch no other."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); {REMEDY}") from error
    if fingerprint(tensor) != hashes[name]:
        raise InputError(f"{path}: {name} is not what was written; {REMEDY}")
    return tensor


class Folder:
    """States of one encoder, read in one way: what there is of some queries, and more to add.

    A manifest, written first, says what they are; each shard is there whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
    queries : sequence of str, length N

    Attributes
    ----------
    manifest : dict or None
        What the states are, None before anything was written.
    shards : list of Shard
        Those that held some of the queries when this was made.

    Raises
    ------
    InputError
        If a shard is damaged or of another folder.
    """

    def __init__(self, path: Path, queries: Sequence[str]):
        self.path = path
        numbers: dict[bytes, int] = {}  # queries that are alike are one
        self._number = np.array(
            [numbers.setdefault(query_digest(query), len(numbers)) for query in queries], np.int64
        )
        has_manifest = (path / MANIFEST).is_file()
        self.manifest = read_json(path / MANIFEST) if has_manifest else None
        paths = sorted(path.glob("shard-*.safetensors")) if has_manifest else []
        opened = [Shard.open(one, fingerprint(self.manifest), numbers) for one in paths]
        self.shards = [shard for shard in opened if len(shard.rows)]

    @property
    def places(self) -> set[Place]:
        """Layers and poolings of which there is something."""
        names = {name.rpartition(".") for shard in self.shards for name in shard.hashes}
        return {(int(layer), pooling) for pooling, dot, layer in names if dot}

    def lacking(self, places: Sequence[Place]) -> np.ndarray:
        """Return which states are not there, bool (n_places, N)."""
        lacking = np.ones((len(places), len(self._number)), dtype=bool)
        for row, place in zip(lacking, places, strict=True):
            for shard in self.shards:
                if tensor_name(*place) in shard.hashes:
                    row[shard.numbers] = False
        return lacking[:, self._number]

    def missing(self, places: Sequence[Place]) -> list[tuple[list[Place], np.ndarray]]:
        """Return which queries lack which places: those that lack the same together, most first.

        Of queries that are alike, the first.
        """
        first = np.unique(self._number, return_index=True)[1]
        lacking, groups = self.lacking(places)[:, first], []
        for pattern in np.unique(lacking, axis=1).T[::-1]:
            if pattern.any():
                rows = first[(lacking == pattern[:, None]).all(axis=0)]
                groups.append(([places[i] for i in np.flatnonzero(pattern)], rows))
        return groups

    def states(self, layer: int, pooling: str) -> np.ndarray:
        """Return one layer's states of each query, float32 (N, D)."""
        states = np.empty((len(self._number), self.manifest["width"]), np.float32)
        return self._gather(tensor_name(layer, pooling), states)

    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens of each prompt as it was read, and before it was cut, int64 (N,)."""
        return tuple(
            self._gather(name, np.empty(len(self._number), np.int64))
            for name in (N_TOKENS, FULL_TOKENS)
        )

    def _gather(self, name: str, values: np.ndarray) -> np.ndarray:
        for shard in self.shards:
            if name in shard.hashes:
                values[shard.numbers] = shard.read(name)
        return values[self._number]

    def not_finite(self, layer: int, pooling: str) -> np.ndarray:
        """Return the queries whose states are not all numbers, sorted."""
        name, bad = tensor_name(layer, pooling), set()
        for shard in self.shards:
            is_bad = np.isin(shard.rows, shard.not_finite.get(name, []))
            bad.update(shard.numbers[is_bad].tolist())
        return np.flatnonzero(np.isin(self._number, list(bad)))

    def describe(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, unless there is one, and remove what a killed process had begun."""
        for begun in self.path.glob(".*.*"):
            begun.unlink()
        if self.manifest is None:
            write_json(self.path / MANIFEST, manifest)
            self.manifest = manifest

    def add(
        self,
        queries: Sequence[str],
        n_tokens: np.ndarray,
        full_tokens: np.ndarray,
        states: Mapping[Place, np.ndarray],
    ) -> None:
        """Write a shard of n queries.

        Parameters
        ----------
        queries : sequence of str, length n
        n_tokens, full_tokens : int64 ndarray of shape (n,)
        states : mapping of (int, str) to float32 ndarray of shape (n, D)

        Raises
        ------
        InputError
            If a state does not fit into the folder's type.
        """
        storage, not_finite = self.manifest["key"]["storage_dtype"], {}
        digests = np.frombuffer(b"".join(map(query_digest, queries)), np.uint8)
        tensors = {QUERIES: digests.reshape(len(queries), -1)}
        tensors |= {N_TOKENS: n_tokens, FULL_TOKENS: full_tokens}
        for place, values in states.items():
            name, finite = tensor_name(*place), np.isfinite(values)
            largest = np.abs(values, where=finite, out=np.zeros_like(values)).max(initial=0)
            if largest > float(np.finfo(storage).max):
                raise InputError(
                    f"A state of {largest:.3g} ({name}) does not fit into {storage}; set "
                    "storage_dtype to float32."
                )
            tensors[name] = values.astype(storage, order="C", copy=False)
            if not finite.all():
                not_finite[name] = np.flatnonzero(~finite.all(axis=1)).tolist()
        hashes = {name: fingerprint(values) for name, values in tensors.items()}
        owner = fingerprint(self.manifest)
        header = {"owner": owner, "hashes": hashes, "not_finite": not_finite}
        # One entry of metadata: safetensors writes several in no fixed order.
        content = save(tensors, {HEADER: json.dumps(header, sort_keys=True)})
        with atomic_write(self.path / shard_name(header)) as temporary:
            temporary.write_bytes(content)
