"""What a router says of queries: read by its encoder, predicted from their states."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.extraction import check_layers
from prefill_router.extraction.models import Device
from prefill_router.extraction.pooling import needs_user
from prefill_router.extraction.prefill import EncoderSpec, Place, Reader
from prefill_router.extraction.prompts import Query
from prefill_router.extraction.sources import pinned, resolve, weights_hash
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices, query_costs
from prefill_router.progress import track
from prefill_router.recipe.cost_prediction import CostModel
from prefill_router.recipe.heads import Predictor
from prefill_router.router.added_targets import add_columns
from prefill_router.router.contents import AddedRecord, RouterConfig

AT_ONCE = 1024  # queries tokenised together


@dataclass(frozen=True, eq=False)
class QueryReader:
    """An encoder held ready, which is loaded for the first query, and read no higher than need be.

    Threads may share a reader; the encoder reads for one at a time.

    Attributes
    ----------
    spec : EncoderSpec
    places : list of (int, str)
        Layers and poolings whose states are wanted.
    """

    spec: EncoderSpec
    places: Sequence[Place]

    @cached_property
    def loaded(self) -> tuple[Reader, threading.Lock]:
        """The encoder, and who may read with it."""
        reader = self.spec.load()
        check_layers([layer for layer, _ in self.places], reader.layout.last)
        return reader, threading.Lock()

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
        reader, lock = self.loaded
        batches, n_tokens = [np.arange(1)], None
        if len(queries) != 1 or reader.prompts.truncation != "error":
            survey = reader.survey(queries)
            batches, n_tokens = survey.plan(np.arange(len(queries)), AT_ONCE), survey.full_tokens
        find_user = needs_user([pooling for _, pooling in self.places])
        states = np.empty((len(self.places), len(queries), reader.layout.width), np.float32)
        for rows in track(batches, "Reading queries") if len(queries) > 1 else batches:
            batch = reader.prompts.batch([queries[row] for row in rows], find_user)
            with lock:
                states[:, rows] = reader.read_batch(batch, self.places).cpu().numpy()
        return states, batch.lengths.numpy() if n_tokens is None else n_tokens


def find_reader(
    config: RouterConfig, device: Device = "cpu", lies_at: str | None = None
) -> QueryReader | None:
    """Return what reads queries for a router; None where it was fitted to arrays.

    Raises
    ------
    InputError
        If its encoder is neither under its own name nor at `lies_at`, or has other files.
    """
    encoder = config.encoder
    if encoder is None:
        return None
    name = lies_at or pinned(encoder.name, encoder.revision)
    try:
        source = resolve(name)
    except InputError as error:
        raise InputError(
            f"{error} The router was fitted to this encoder: say where it lies now, encoder=PATH "
            "(on the command line -p encoder=PATH)."
        ) from None
    if (found := weights_hash(source)) != encoder.weights:
        raise InputError(
            f"{name} is not the encoder that the router was fitted to (its files have "
            f"the hash {found[:12]}..., not {encoder.weights[:12]}...); say where that one lies: "
            "encoder=PATH."
        )
    places = [(place.layer, place.pooling) for place in config.places]
    return QueryReader(EncoderSpec(source, encoder, device), places)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a router says of N queries; of labelled ones, beside what came of them.

    Attributes
    ----------
    raw, p : ndarray of shape (N, K)
        P(correct) before and after calibration.
    n_tokens : ndarray of shape (N,) or None
        Tokens of each prompt, as the encoder counts them; None, as all that follows, where no costs
        are known.
    inputs : ndarray of shape (N, K) or None
        Input tokens, as each target counts them.
    expected, paid : ndarray of shape (N, K) or None
        Costs in USD as expected beforehand, and as they turned out.
    labels : Labels or None
        Of the router's targets, in its order.
    """

    raw: np.ndarray
    p: np.ndarray
    n_tokens: np.ndarray | None = None
    inputs: np.ndarray | None = None
    expected: np.ndarray | None = None
    paid: np.ndarray | None = None
    labels: Labels | None = None

    @property
    def costs(self) -> np.ndarray:
        """Costs as policies weigh them: `expected`, or 0 where none are known."""
        return np.zeros(self.p.shape) if self.expected is None else self.expected

    def priced(self, prices: Prices | None) -> Predictions:
        """Return the same with what the answers to labelled queries cost, where costs are known."""
        known = self.inputs is not None
        return replace(self, paid=query_costs(self.labels, prices, self.inputs) if known else None)

    def take(self, rows: np.ndarray) -> Predictions:
        """Return those of some of the labelled queries."""
        arrays = {k: v[rows] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **arrays, labels=self.labels.take(rows))

    def evaluation(self, best_single: str, cost: np.ndarray | None, **settings: Any) -> Evaluation:
        """Return the evaluation on labelled queries; `settings` are others of its attributes."""
        labels = self.labels
        best = labels.targets.index(best_single)
        return Evaluation(labels.correct, cost, labels.group, best, labels.targets, **settings)


def predict(
    predictor: Predictor,
    costs: CostModel | None,
    features: np.ndarray,
    n_tokens: np.ndarray | None,
    queries: Sequence[Query] | None,
    added: Sequence[AddedRecord] = (),
) -> Predictions:
    """Return what is said of queries by their features.

    The lengths of prompts are needed where costs are known, and the `queries` themselves where
    targets' own tokenizers count their input; `added` are targets that came later.
    """
    raw = predictor.raw(features)
    p = add_columns(added, predictor.calibration.apply(raw))
    raw = np.column_stack([raw, p[:, raw.shape[1] :]])
    if costs is None:
        return Predictions(raw, p)
    if queries is None and costs.tokenizers:
        raise InputError(
            "Some targets' own tokenizers count their input: give queries, not states alone."
        )
    inputs = costs.input_tokens(queries, n_tokens)
    return Predictions(raw, p, n_tokens, inputs, costs.expected(features, inputs))
