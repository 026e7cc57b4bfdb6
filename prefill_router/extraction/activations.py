"""Pooled prefill states of prompts: what extraction makes and every later stage reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from prefill_router.errors import InputError, check_known
from prefill_router.extraction.shards import Folder
from prefill_router.storage import MANIFEST, fingerprint

NAMED = 5  # queries named where many are at fault


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
        SHA-256 over every file that decides what it computes.
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
        full_tokens: np.ndarray | None = None,
    ) -> Activations:
        """Return activations of one's own arrays.

        Warns of states that are not finite, whose layers are left out.

        Parameters
        ----------
        states : mapping of (int, str) to ndarray of shape (N, D)
            States by layer and pooling: every layer with every pooling.
        n_tokens, full_tokens : ndarray of shape (N,), optional
            Tokens of each prompt as it was read, and before it was cut, by default as many. Needed
            only for costs.

        Raises
        ------
        InputError
            If shapes differ, a layer lacks a pooling, or no layer can be used.
        """
        arrays = {place: np.asarray(array, np.float32) for place, array in states.items()}
        layers, poolings = (sorted({place[i] for place in arrays}) for i in (0, 1))
        missing = [place for place in product(layers, poolings) if place not in arrays]
        shapes = {array.shape for array in arrays.values()}
        if missing or len(shapes) != 1 or len(shape := next(iter(shapes))) != 2:
            raise InputError(
                "states must hold an array of one shape (N, D) for every layer with every pooling, "
                f'such as {{(12, "mean"): X}}; they lack {missing}, and the shapes are {shapes}.'
            )
        tokens = None
        if n_tokens is not None:
            lengths = (n_tokens, n_tokens if full_tokens is None else full_tokens)
            tokens = tuple(np.asarray(counts, np.int64) for counts in lengths)
            if tokens[0].shape != shape[:1]:
                raise InputError(f"n_tokens has shape {tokens[0].shape}; it must be {shape[:1]}.")
        content = [part for place in sorted(arrays) for part in (list(place), arrays[place])]
        key = fingerprint(*content, *(tokens or ()))
        bad = {at: np.flatnonzero(~np.isfinite(arrays[at]).all(axis=1)) for at in sorted(arrays)}
        usable = usable_layers(bad)
        return cls(usable, poolings, shape[1], key, None, shape[0], tokens, lambda *at: arrays[at])

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike,
        queries: Sequence[str],
        layers: Sequence[int] | None = None,
        poolings: Sequence[str] | None = None,
    ) -> Activations:
        """Open states that `extract` wrote; needs no encoder, and reads no state yet.

        Warns of states that are not finite, whose layers are left out.

        Parameters
        ----------
        directory : path-like
            ``activations-...`` in the `cache_dir` of `extract`.
        queries : sequence of str, length N
            In any order.
        layers, poolings : sequence, optional
            By default all that the directory has.

        Raises
        ------
        InputError
            If there are none, some are missing or damaged, or no layer can be used.
        """
        folder = Folder(Path(directory), queries)
        manifest = folder.manifest
        if manifest is None:
            raise InputError(f"{directory} holds no activations ({MANIFEST} is missing).")
        layers = sorted({layer for layer, _ in folder.places}) if layers is None else layers
        if poolings is None:
            poolings = sorted({pooling for _, pooling in folder.places})
        places = list(product(layers, poolings))
        n_missing = int(folder.lacking(places).any(axis=0).sum()) if places else len(queries)
        if n_missing:
            raise InputError(
                f"{directory} lacks states of {n_missing} of {len(queries)} queries; extract again "
                "to have them read."
            )
        usable = usable_layers({place: folder.not_finite(*place) for place in places})
        key = content_key(manifest["key"], queries, layers, poolings)
        encoder, width = EncoderInfo(**manifest["encoder"]), manifest["width"]
        tokens, n = folder.tokens(), len(queries)
        return cls(usable, list(poolings), width, key, encoder, n, tokens, folder.states)

    def __len__(self) -> int:
        """Return N."""
        return self._n_queries

    @property
    def n_tokens(self) -> np.ndarray:
        """Tokens of each prompt as it was read, int64 (N,)."""
        if self._tokens is None:
            raise InputError(
                "These activations do not know how long their prompts are, which costs depend on: "
                "give n_tokens to Activations.from_arrays."
            )
        return self._tokens[0]

    @property
    def full_tokens(self) -> np.ndarray:
        """Tokens of each prompt before any was cut, int64 (N,): what it costs to send."""
        return self._tokens[1] if self._tokens else self.n_tokens

    @property
    def n_truncated(self) -> int:
        """Prompts that were cut to fit."""
        return int((self.full_tokens > self.n_tokens).sum())

    @property
    def truncation_note(self) -> str:
        """How many prompts were cut, in a sentence; empty if none was."""
        if not self.n_truncated:
            return ""
        cut = f"{self.n_truncated:,} of {len(self):,} prompts"
        return f"{cut} were longer than the encoder reads, and were cut."

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
        check_known("pooling", pooling, self.poolings)
        return self._read(layer, pooling)


def content_key(
    key: dict[str, Any], queries: Sequence[str], layers: Sequence[int], poolings: Sequence[str]
) -> str:
    """Return what identifies extracted states, in memory or on disk."""
    return fingerprint(key, list(queries), list(layers), list(poolings))


def some_of(rows: Sequence[int]) -> str:
    """Return the first rows as text, and how many more there are."""
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(map(str, rows[:NAMED])) + more


def usable_layers(not_finite: Mapping[tuple[int, str], np.ndarray]) -> list[int]:
    """Return the layers whose states are all finite; warn of the others.

    Parameters
    ----------
    not_finite : mapping of (int, str) to int64 ndarray
        Of each layer and pooling, the queries whose states are not finite.

    Raises
    ------
    InputError
        If no layer is left.
    """
    bad = {place: rows.tolist() for place, rows in not_finite.items() if len(rows)}
    left = sorted({layer for layer, _ in not_finite} - {layer for layer, _ in bad})
    if bad:
        said = "; ".join(
            f"layer {layer} ({pooling}): query {some_of(rows)}"
            for (layer, pooling), rows in bad.items()
        )
        report = (
            f"Some states are not finite: {said}. These layers are left out. Drop those queries, "
            "or try dtype float32 or bfloat16; if it stays, the model's weights are damaged."
        )
        if not left:
            raise InputError(f"{report} No layer is left to be used.")
        warnings.warn(report, stacklevel=3)
    return left
