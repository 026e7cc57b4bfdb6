"""A router in use: it reads queries, predicts, and chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from prefill_router.errors import InputError
from prefill_router.evaluation.estimates import Estimate
from prefill_router.extraction.devices import Device
from prefill_router.extraction.sources import ModelSource
from prefill_router.extraction.templates import Query
from prefill_router.policy import NOBODY
from prefill_router.router.added_targets import tuned_with_added, with_added, with_added_costs
from prefill_router.router.config import RouterConfig
from prefill_router.router.guarantee import Guarantee
from prefill_router.router.parts import Parts
from prefill_router.router.query_reader import QueryReader
from prefill_router.router.routing import Route, Rule, make_rule

RULES = 64
"""Settled policies that are kept; a service that varies its settings settles others anew."""


@dataclass(frozen=True, eq=False)
class _Read:
    """Queries as read: prompt tokens (N,), and (N, K) as in `Examined`."""

    n_tokens: np.ndarray
    raw: np.ndarray
    p: np.ndarray
    expected: np.ndarray | None


class Predictor:
    """Says which of K targets to ask.

    Parameters
    ----------
    config : RouterConfig
        What it says of itself.
    parts : Parts
        What it computes with.
    source : ModelSource
        The encoder, already compared with `config`.
    device : device, default "cpu"
        Where the encoder reads, as for `prefill_router.extraction.models.load_encoder`.
    """

    def __init__(
        self, config: RouterConfig, parts: Parts, source: ModelSource, device: Device = "cpu"
    ):
        self.config = config
        self._fitted = parts  # what is saved; targets added since are in `config`
        self.parts = replace(parts, tuned=tuned_with_added(parts.tuned, config.added))
        self._source = source
        self._device = device
        self._rule = lru_cache(RULES)(self._make_rule)
        self._reader = QueryReader(
            source,
            parts.heads.places,
            max_tokens=config.encoder.max_tokens,
            truncation=config.encoder.truncation,
            device=device,
            dtype=config.encoder.dtype,
        )
        if self._reader.width != config.shapes.width:
            raise InputError(
                f"The encoder's states are {self._reader.width} wide, those that the router was "
                f"fitted to {config.shapes.width}."
            )

    @property
    def targets(self) -> list[str]:
        """Names of the K targets, those added since at the end."""
        return [*self.config.targets, *(record.name for record in self.config.added)]

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        return self.config.encoder.name

    @property
    def guarantee(self) -> Guarantee:
        """The tolerance certified on held-out labels, or that none is."""
        return self.parts.tuned.guarantee

    @property
    def promise(self) -> str:
        """The guarantee as a sentence, with the targets that it does not cover."""
        added = self.targets[len(self.targets) - self.parts.tuned.added :]
        if not added or self.guarantee.tau is None:
            return str(self.guarantee)
        return (
            f"{self.guarantee} It does not cover {', '.join(added)}, added since: certify anew, "
            "with labels of all targets."
        )

    @property
    def metrics(self) -> list[Estimate]:
        """Results on the test queries, with intervals."""
        return [record.estimate_of() for record in self.config.metrics]

    def route(self, query: Query, policy: str = "tolerance", **settings: Any) -> Route:
        """Say which target to ask; a query is a text, or a list of messages.

        Parameters
        ----------
        query : str or list of messages
            Messages are mappings with ``role`` and ``content``, rendered by the encoder's chat
            template.
        policy, **settings
            As for `route_many`.

        Returns
        -------
        Route
        """
        return self.route_many([query], policy, **settings)[0]

    def route_many(
        self,
        queries: Sequence[Query],
        policy: str = "tolerance",
        *,
        tau: float | None = None,
        lam: float | None = None,
        budget: float | None = None,
        accuracy: float | None = None,
        exclude: Sequence[str] = (),
    ) -> list[Route]:
        """Say for each query which target to ask.

        Parameters
        ----------
        queries : sequence of str or of messages
        policy : {"tolerance", "argmax", "utility", "budget", "abstain"}
        tau, lam, budget, accuracy, exclude
            As for `prefill_router.router.routing.make_rule`.

        Returns
        -------
        list of Route

        Raises
        ------
        InputError
            If a query cannot be read, or `make_rule` refuses a setting.
        """
        exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        rule = self._rule(
            policy, tau=tau, lam=lam, budget=budget, accuracy=accuracy, exclude=exclude
        )
        p, cost = self._predict(queries)
        targets = self.targets
        kept = [(int(k), targets[k]) for k in rule.kept]
        routes = []
        for row, choice in enumerate(rule.choose(p, cost)):
            expected = None if cost is None else {name: float(cost[row, k]) for k, name in kept}
            why = rule.why(choice, p[row], None if cost is None else cost[row], targets)
            chosen = None if choice == NOBODY else targets[choice]
            routes.append(
                Route(chosen, {name: float(p[row, k]) for k, name in kept}, expected, why)
            )
        return routes

    def _make_rule(self, policy: str, **settings: Any) -> Rule:
        return make_rule(policy, self.parts.tuned, self.targets, **settings)

    def predict_proba(self, queries: Sequence[Query]) -> np.ndarray:
        """Return calibrated P(correct), (N, K)."""
        return self._predict(queries)[0]

    def expected_costs(self, queries: Sequence[Query]) -> np.ndarray:
        """Return the expected cost of asking each target, (N, K) in USD.

        Raises
        ------
        InputError
            If the router was fitted without prices.
        """
        cost = self._predict(queries)[1]
        if cost is None:
            raise InputError("This router was fitted without prices; fit it with prices.")
        return cost

    def _predict(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray | None]:
        read = self._read(queries)
        return read.p, read.expected

    def _read(self, queries: Sequence[Query]) -> _Read:
        if isinstance(queries, str):
            raise InputError(
                f"The queries are one text, {queries!r:.80}; put it in a list, or use route(query)."
            )
        states, n_tokens = self._reader.read(queries)
        heads, costs, added = self.parts.heads, self.parts.costs, self.config.added
        features = heads.features(states)
        expected = None
        if costs is not None:
            expected = costs.expected(features, costs.input_tokens(queries, n_tokens))
        raw = heads.raw(features)
        p = with_added(heads.calibration.apply(raw), added)
        return _Read(
            n_tokens,
            np.hstack([raw, p[:, raw.shape[1] :]]),
            p,
            with_added_costs(expected, n_tokens, added),
        )
