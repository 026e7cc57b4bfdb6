"""Queries as they come: an encoder held ready, read only as far up as its states are used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prefill_router.errors import InputError
from prefill_router.extraction import check_layers
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.extraction.models import Device
from prefill_router.extraction.pooling import needs_user
from prefill_router.extraction.prefill import EncoderSpec, Prefill, Reader
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.extraction.templates import Query
from prefill_router.progress import track

AT_ONCE = 1024  # queries tokenised together


@dataclass(frozen=True, eq=False)
class QueryReader:
    """Reads queries with one encoder, which is loaded for the first of them.

    Threads may share a reader; the encoder reads for one at a time.

    Attributes
    ----------
    source : ModelSource
        Where the encoder lies.
    encoder : EncoderInfo
        How it reads.
    places : list of (int, str)
        Layers and poolings whose states are wanted.
    device : device, default "cpu"
    """

    source: ModelSource
    encoder: EncoderInfo
    places: Sequence[tuple[int, str]]
    device: Device = "cpu"

    def read(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        """Read queries in batches of similar length.

        Parameters
        ----------
        queries : sequence of str or of messages

        Returns
        -------
        states : float32 ndarray of shape (P, N, D)
        n_tokens : int64 ndarray of shape (N,)
            Tokens of each prompt before any was cut.

        Raises
        ------
        InputError
            If a query cannot be read; N must be at least 1.
        """
        if len(queries) == 1:
            return self._read(queries)
        reader, prefill, _ = self.loaded
        survey = reader.survey(queries)
        states = np.empty((len(prefill.places), len(queries), reader.layout.width), np.float32)
        batches = survey.plan(np.arange(len(queries)), AT_ONCE)
        for rows in track(batches, "Reading queries"):
            states[:, rows] = self._read([queries[row] for row in rows])[0]
        return states, survey.full_tokens

    @cached_property
    def loaded(self) -> tuple[Reader, Prefill, threading.Lock]:
        """The encoder, what reads its states, and for whom."""
        reader = EncoderSpec(self.source, self.encoder, self.device).load()
        check_layers([layer for layer, _ in self.places], reader.layout.last)
        return reader, Prefill(reader.model, reader.layout, self.places), threading.Lock()

    def _read(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        reader, prefill, lock = self.loaded
        prompts = reader.prompts
        batch = prompts.batch(queries, needs_user([pooling for _, pooling in self.places]))
        cut = prompts.truncation != "error"
        n_tokens = prompts.count(queries) if cut else batch.lengths.numpy()
        with lock:
            pooled = prefill.read(batch).cpu().numpy()
        return pooled, n_tokens


def find_encoder(encoder: EncoderInfo, lies_at: str | None = None) -> ModelSource:
    """Return the encoder that states were read with, under its own name or another.

    Raises
    ------
    InputError
        If it is not there, or its files are others.
    """
    name = lies_at or encoder.name
    if lies_at is None and encoder.revision is not None:
        name = f"{encoder.name.partition('@')[0]}@{encoder.revision}"
    try:
        source = resolve(name)
    except InputError as error:
        raise InputError(
            f"{error} The router was fitted to this encoder: say where it lies now "
            "(from_pretrained(..., encoder=PATH); on the command line -p encoder=PATH)."
        ) from None
    if (found := weights_hash(source)) != encoder.weights:
        raise InputError(
            f"{name} is not the encoder that the router was fitted to: its files have the hash "
            f"{found[:16]}..., that one's {encoder.weights[:16]}.... Say where that one lies "
            "(encoder=...), or fit the router anew."
        )
    return source
