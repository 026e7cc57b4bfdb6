"""Pooled prefill states on disk: what extraction writes and every later stage reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.layout import PLAN, Layout
from prefill_router.extraction.shards import Shard, tensor_key
from prefill_router.storage import MANIFEST, file_hash, fingerprint, read_json, write_json

FORMAT = 2
NAMED = 5  # queries named, by layer and pooling, where states are not finite


@dataclass(frozen=True)
class EncoderInfo:
    """Which encoder states are of, and how it read the prompts.

    Attributes
    ----------
    name : str
        As it was asked for: ``zoo/NAME``, a path, or a name on the hub.
    revision : str or None
        The commit on the hub, None elsewhere.
    weights : str
        SHA-256 over every file that decides what it computes (`sources.weights_hash`).
    dtype : str
        Type that it computed in.
    max_tokens : int or None
        The most tokens of a prompt; None for the encoder's own limit.
    truncation : {"error", "left", "right"}
        What was done with longer prompts.
    template : str or None
        The chat template that was used instead of the tokenizer's.
    template_kwargs : dict or None
        What was passed to the chat template.
    """

    name: str
    revision: str | None
    weights: str
    dtype: str = "float32"
    max_tokens: int | None = None
    truncation: str = "error"
    template: str | None = None
    template_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Activations:
    """Pooled prefill states of N prompts, in memory or on disk, read one layer at a time.

    Made by `prefill_router.extraction.extract` or, of one's own arrays, by `from_arrays`.

    Attributes
    ----------
    layers : list of int
        Hidden states that can be used, as transformers counts them: 0 is the embedding output, L
        the last block's (after the final norm, where the model has one).
    poolings : list of str
        Ways in which tokens were pooled.
    width : int
        D, numbers in a state.
    key : str
        Identifies the content.
    encoder : EncoderInfo or None
        None for arrays of one's own.

    Examples
    --------
    >>> import numpy as np
    >>> states = Activations.from_arrays({(12, "mean"): np.eye(3)})
    >>> len(states), states.layers, states.poolings, states.states(12, "mean").shape
    (3, [12], ['mean'], (3, 3))
    """

    layers: list[int]
    poolings: list[str]
    width: int
    key: str
    encoder: EncoderInfo | None
    _n_queries: int
    _tokens: tuple[np.ndarray, np.ndarray] | None
    _read: Callable[[int, str], np.ndarray]

    @classmethod
    def from_arrays(
        cls,
        states: Mapping[tuple[int, str], np.ndarray],
        n_tokens: np.ndarray | None = None,
    ) -> Activations:
        """Return activations of one's own arrays.

        Parameters
        ----------
        states : mapping of (int, str) to ndarray of shape (N, D)
            States by layer and pooling: every layer with every pooling.
        n_tokens : ndarray of shape (N,), optional
            Tokens of each prompt. Needed only for costs.

        Raises
        ------
        InputError
            If shapes differ, a layer lacks a pooling, or a state is not finite.
        """
        arrays = {place: np.asarray(array, np.float32) for place, array in states.items()}
        layers = sorted({layer for layer, _ in arrays})
        poolings = sorted({pooling for _, pooling in arrays})
        missing = [place for place in product(layers, poolings) if place not in arrays]
        if missing or not arrays:
            raise InputError(
                f"states lack {missing or 'any array'}; give every layer with every pooling, such "
                'as {(12, "mean"): X} with X of shape (N, D).'
            )
        shapes = {array.shape for array in arrays.values()}
        shape = next(iter(shapes))
        if len(shapes) > 1 or len(shape) != 2:
            raise InputError(f"states must be arrays of one shape (N, D); these are {shapes}.")
        for (layer, pooling), array in arrays.items():
            if not (finite := np.isfinite(array).all(axis=1)).all():
                raise InputError(
                    f"The state of query {int(np.argmin(finite))} at layer {layer} ({pooling}) is "
                    "not finite; drop the query or the layer."
                )
        tokens = None
        if n_tokens is not None:
            tokens = (np.asarray(n_tokens, np.int64),) * 2
            if tokens[0].shape != shape[:1]:
                raise InputError(f"n_tokens has shape {tokens[0].shape}; it must be {shape[:1]}.")
        content = [part for place in sorted(arrays) for part in (list(place), arrays[place])]
        key = fingerprint(*content, *(tokens or ()))
        return cls(layers, poolings, shape[1], key, None, shape[0], tokens, lambda *at: arrays[at])

    def __len__(self) -> int:
        """Return N."""
        return self._n_queries

    @property
    def n_tokens(self) -> np.ndarray:
        """Tokens of each prompt as it was read, int64 (N,)."""
        return self._known_tokens[0]

    @property
    def full_tokens(self) -> np.ndarray:
        """Tokens of each prompt before any was cut, int64 (N,): what it costs to send."""
        return self._known_tokens[1]

    @property
    def n_truncated(self) -> int:
        """Prompts that were cut to fit."""
        return int((self.full_tokens > self.n_tokens).sum())

    @property
    def _known_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        if self._tokens is None:
            raise InputError(
                "These activations do not know how long their prompts are, which costs depend on: "
                "give n_tokens to Activations.from_arrays."
            )
        return self._tokens

    def states(self, layer: int, pooling: str) -> np.ndarray:
        """Return one layer's pooled states; on disk, no other is read.

        Parameters
        ----------
        layer : int
            One of `layers`.
        pooling : str
            One of `poolings`.

        Returns
        -------
        float32 ndarray of shape (N, D)
            In the order of the queries.

        Raises
        ------
        InputError
            If there is no such layer or pooling, or the bytes on disk are not those that were
            written.
        """
        if layer not in self.layers:
            raise InputError(f"There are no states of layer {layer}; there are {self.layers}.")
        if pooling not in self.poolings:
            raise InputError(
                f"There are no states of pooling {pooling!r}."
                + did_you_mean(pooling, self.poolings)
            )
        return self._read(layer, pooling)


@dataclass(frozen=True)
class StoredStates:
    """Pooled prefill states of N prompts, opened with `open` and read one tensor at a time.

    Attributes
    ----------
    path : pathlib.Path
        The directory.
    layout : Layout
        What it holds, and in which order.
    shards : list of Shard
        Where it is held.
    not_finite : dict of str to dict
        Tensors with states that are not all numbers: ``count`` of queries, and the ``first`` few.
    """

    path: Path
    layout: Layout
    shards: list[Shard]
    not_finite: dict[str, dict]

    @cached_property
    def layers(self) -> list[int]:
        """Hidden states that can be used: 0 is the embedding output, L the last block's.

        A layer with a state that is not finite is left out.
        """
        bad = {layer for layer in self._extracted for pooling in self.poolings
               if tensor_key(layer, pooling) in self.not_finite}  # fmt: skip
        return [layer for layer in self._extracted if layer not in bad]

    @property
    def _extracted(self) -> list[int]:
        return self.layout.description["layers"]

    @property
    def poolings(self) -> list[str]:
        """Ways in which tokens were pooled."""
        return self.layout.description["poolings"]

    @property
    def width(self) -> int:
        """D, numbers in a state."""
        return self.layout.description["width"]

    @property
    def n_queries(self) -> int:
        """N."""
        return len(self.n_tokens)

    @property
    def n_tokens(self) -> np.ndarray:
        """Tokens of each prompt as it was read, int64 (N,)."""
        return self.layout.n_tokens

    @property
    def full_tokens(self) -> np.ndarray:
        """Tokens of each prompt before any was cut, int64 (N,): what it costs to send."""
        return self.layout.full_tokens

    @property
    def n_truncated(self) -> int:
        """Prompts that were cut to fit."""
        return int((self.full_tokens > self.n_tokens).sum())

    @classmethod
    def open(cls, directory: str | Path) -> StoredStates:
        """Open what an extraction has finished, reading no state yet.

        Warns of states that are not finite.

        Raises
        ------
        InputError
            If the directory holds none, is not finished, damaged or of another version, or has no
            layer that can be used.
        """
        directory = Path(directory)
        if not (directory / MANIFEST).is_file():
            unfinished = (directory / PLAN).is_file()
            raise InputError(
                f"{directory} holds an extraction that is not finished; extract again to go on."
                if unfinished
                else f"{directory} holds no activations ({MANIFEST} is missing)."
            )
        manifest = read_json(directory / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise InputError(
                f"{directory} was written by another version of prefill-router (format "
                f"{manifest.get('format')}, here {FORMAT}); delete it to have it made again."
            )
        if (
            not (directory / PLAN).is_file()
            or file_hash(directory / PLAN) != manifest["files"][PLAN]
        ):
            raise InputError(
                f"{directory / PLAN} is not the file that was written; delete {directory} to have "
                "it made again."
            )
        layout = Layout.load(directory)
        n_shards = len(layout.plan.shard_ends)
        shards = [layout.open_shard(directory, shard) for shard in range(n_shards)]
        activations = cls(directory, layout, shards, manifest["not_finite"])
        if activations.not_finite:
            report = _report(activations)
            if not activations.layers:
                raise InputError(f"{report} No layer is left to be used.")
            warnings.warn(report, stacklevel=2)
        return activations

    def states(self, layer: int, pooling: str) -> np.ndarray:
        """Read one layer's pooled states; no other tensor is touched.

        Parameters
        ----------
        layer : int
            One of `layers`.
        pooling : str
            One of `poolings`.

        Returns
        -------
        float32 ndarray of shape (N, D)
            In the order of the queries.

        Raises
        ------
        InputError
            If that layer or pooling was not extracted or cannot be used, or its bytes on disk are
            not those that were written.
        """
        if layer not in self._extracted:
            raise InputError(f"layer {layer} was not extracted; there are {self._extracted}.")
        if pooling not in self.poolings:
            raise InputError(
                f"pooling {pooling!r} was not extracted." + did_you_mean(pooling, self.poolings)
            )
        if layer not in self.layers:
            raise InputError(_report(self))
        return self.take(layer, pooling, np.arange(self.n_queries))

    def take(self, layer: int, pooling: str, rows: np.ndarray) -> np.ndarray:
        """Read some queries' states, float32 (n, D), finite or not; touches their shards only."""
        states = np.empty((len(rows), self.width), np.float32)
        shards, positions = self._whereabouts
        for shard in np.unique(shards[rows]):
            here = shards[rows] == shard
            tensor = self.shards[shard].read(tensor_key(layer, pooling))
            states[here] = tensor[positions[rows[here]]]
        return states

    @cached_property
    def _whereabouts(self) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each query, and where in it the query stands, each (N,)."""
        shards, positions = np.empty((2, self.n_queries), dtype=np.int64)
        for shard in range(len(self.shards)):
            rows = self.layout.plan.shard(shard)
            shards[rows], positions[rows] = shard, np.arange(len(rows))
        return shards, positions


def _report(activations: StoredStates) -> str:
    named = "; ".join(
        f"{key}: query {', '.join(map(str, found['first']))}"
        + (f" and {found['count'] - len(found['first'])} more" if found["count"] > NAMED else "")
        for key, found in activations.not_finite.items()
    )
    return (
        f"{activations.path}: some states are not finite (pooling.layer: {named}). These layers "
        "are left out. Drop those queries, or try dtype float32 or bfloat16; if it stays, the "
        "model's weights are damaged."
    )


def finish(directory: Path, layout: Layout) -> None:
    """Write the manifest, once every shard is there: from then on `Activations.open` opens it.

    Raises
    ------
    InputError
        If a shard is missing or damaged.
    """
    not_finite: dict[str, list[int]] = {}
    for shard in range(len(layout.plan.shard_ends)):
        rows = layout.plan.shard(shard)
        for key, positions in layout.open_shard(directory, shard).not_finite.items():
            not_finite.setdefault(key, []).extend(rows[positions].tolist())
    files = sorted(path for path in directory.glob("*.safetensors"))
    manifest = {
        **layout.description,
        "format": FORMAT,
        "files": {path.name: file_hash(path) for path in files},
        "not_finite": {
            key: {"count": len(rows), "first": sorted(rows)[:NAMED]}
            for key, rows in not_finite.items()
        },
    }
    write_json(directory / MANIFEST, manifest)
