"""Queries as they come: an encoder held ready, read only as far up as its states are used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from prefill_router.errors import InputError
from prefill_router.extraction import Reading, prepare
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.extraction.devices import Device
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.plan import make_plan
from prefill_router.extraction.pooling import needs_user
from prefill_router.extraction.prefill import Prefill
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.extraction.templates import Query
from prefill_router.progress import track

SAMPLE = "What is asked of a model that reads this line?"  # shows what kind of model it is
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
        reading, *_ = self.loaded
        n_tokens = reading.prompts.count(queries)
        lengths = np.minimum(n_tokens, reading.prompts.max_tokens)
        plan = make_plan(lengths, reading.token_budget, AT_ONCE, reading.switch)
        states = np.empty((len(self.places), len(queries), reading.anatomy.width), np.float32)
        batches = np.split(plan.rows, plan.batch_ends[:-1])
        for rows in track(batches, "Reading queries"):
            states[:, rows] = self._read([queries[row] for row in rows])[0]
        return states, n_tokens

    @cached_property
    def loaded(self) -> tuple[Reading, Prefill, np.ndarray, threading.Lock]:
        """How prompts are made, what reads them, in which order places come, and for whom."""
        how = asdict(self.encoder)
        model, tokenizer = load_encoder(self.source, self.device, how.pop("dtype"))
        by_layer: dict[int, list[str]] = {}
        for layer, pooling in sorted(self.places):
            by_layer.setdefault(layer, []).append(pooling)
        settings = {k: how[k] for k in ("max_tokens", "truncation", "template", "template_kwargs")}
        poolings = [pooling for _, pooling in self.places]
        reading = prepare(
            model, tokenizer, [SAMPLE], layers=list(by_layer), poolings=poolings, **settings
        )
        prefill = Prefill(model, reading.anatomy, reading.layers, by_layer)
        order = np.array([sorted(self.places).index(place) for place in self.places])
        return reading, prefill, order, threading.Lock()

    def _read(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        reading, prefill, order, lock = self.loaded
        prompts = reading.prompts
        batch = prompts.batch(queries, needs_user(reading.poolings))
        cut = prompts.truncation != "error"
        n_tokens = prompts.count(queries) if cut else batch.lengths.numpy()
        with lock:
            pooled = prefill.read_places(batch).cpu().numpy()
        return pooled[order], n_tokens


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
