"""Queries as they come: an encoder held ready, read only as far up as its states are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from prefill_router.extraction import prepare
from prefill_router.extraction.devices import Device
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.pooling import Batch, needs_user
from prefill_router.extraction.prefill import Prefill
from prefill_router.extraction.prompts import Truncation
from prefill_router.extraction.sources import ModelSource
from prefill_router.extraction.templates import Query
from prefill_router.progress import track

SAMPLE = "What is asked of a model that reads this line?"  # shows what kind of model it is
AT_ONCE = 1024  # queries tokenised together


class QueryReader:
    """Reads queries with one encoder, which is loaded at once.

    Parameters
    ----------
    source : ModelSource
        The encoder.
    places : sequence of (int, str)
        Layers and poolings whose states are wanted.
    max_tokens, truncation
        As for `prefill_router.extraction.encode`.
    device, dtype
        As for `prefill_router.extraction.models.load_encoder`.

    Notes
    -----
    Threads may share a reader; the encoder reads for one at a time.
    """

    def __init__(
        self,
        source: ModelSource,
        places: Sequence[tuple[int, str]],
        *,
        max_tokens: int | None = None,
        truncation: Truncation = "error",
        device: Device = "cpu",
        dtype: str = "float32",
    ):
        model, tokenizer = load_encoder(source, device, dtype)
        by_layer: dict[int, list[str]] = {}
        for layer, pooling in sorted(places):
            by_layer.setdefault(layer, []).append(pooling)
        reading = prepare(
            model,
            tokenizer,
            [SAMPLE],
            layers=list(by_layer),
            poolings=[pooling for _, pooling in places],
            max_tokens=max_tokens,
            truncation=truncation,
        )
        self.prompts = reading.prompts
        self.width = reading.anatomy.width
        self.token_budget = reading.token_budget
        self.switch = reading.switch
        self._prefill = Prefill(model, reading.anatomy, reading.layers, by_layer)
        self._order = np.array([sorted(places).index(place) for place in places])
        self._find_user = needs_user(reading.poolings)
        self._lock = threading.Lock()

    def read(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        """Read queries, the shorter ones first, in batches that the device has room for.

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
        n_tokens = self.prompts.count(queries)
        states = np.empty((len(self._order), len(queries), self.width), np.float32)
        for rows in track(self._batches(n_tokens), "Reading queries"):
            states[:, rows] = self._read([queries[row] for row in rows])[0]
        return states, n_tokens

    def _batches(self, n_tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Group rows by length, each group within the budget of tokens, padding included."""
        order = np.argsort(n_tokens, kind="stable")
        lengths = np.minimum(n_tokens, self.prompts.max_tokens)[order]
        start = 0
        while start < len(order):
            fits = np.arange(1, len(order) - start + 1) * lengths[start:] <= self.token_budget
            fits &= (lengths[start:] > self.switch) == (lengths[start] > self.switch)
            size = min(max(1, int(fits.argmin()) if not fits.all() else len(fits)), AT_ONCE)
            yield order[start : start + size]
            start += size

    def _read(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        batch: Batch = self.prompts.batch(queries, self._find_user)
        cut = self.prompts.truncation != "error"
        n_tokens = self.prompts.count(queries) if cut else batch.lengths.numpy()
        with self._lock:
            pooled = self._prefill.read_places(batch).cpu().numpy()
        return pooled[self._order], n_tokens
