"""A router held against labels: what it says of queries beside what came of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.estimates import Estimate
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices, query_costs
from prefill_router.router.evaluation import evaluate
from prefill_router.router.predictor import Predictor
from prefill_router.router.seen_questions import are_seen


@dataclass(frozen=True, eq=False)
class Examined:
    """Labelled queries, and what a router says of them.

    Attributes
    ----------
    labels : Labels
        Of the router's targets, in its order.
    raw, p : ndarray of shape (N, K)
        P(correct) before and after calibration.
    expected, paid : ndarray of shape (N, K) or None
        Costs in USD as expected beforehand, and as they turned out; None where none are known.
    """

    labels: Labels
    raw: np.ndarray
    p: np.ndarray
    expected: np.ndarray | None
    paid: np.ndarray | None


class Examiner(Predictor):
    """A `Predictor` that is measured by labels."""

    def is_seen(self, labels: Labels) -> np.ndarray:
        """Say which rows `unseen` leaves out, bool (N,)."""
        seen = are_seen(labels.question, self.parts.seen)
        return np.isin(labels.group, labels.group[seen])

    def unseen(self, labels: Labels) -> Labels:
        """Return the labels of questions that the router was not fitted to.

        Parameters
        ----------
        labels : Labels
            All or some of those that it was fitted to, or others, or both.

        Returns
        -------
        Labels
            Without the rows whose question was one of its training or validation queries, or of
            those by which a target was added, and without all others of such a row's group: they
            are the same query in other words. Its test queries are left: nothing but the certified
            tolerance rests on them.

        Raises
        ------
        InputError
            If none is left.
        """
        rows = np.flatnonzero(~self.is_seen(labels))
        if len(rows) == 0:
            raise InputError(
                f"The router was fitted to the questions of all {labels.n_queries:,} rows, or to "
                "others of their groups, which can say nothing of others; give labels of other "
                "queries."
            )
        return labels if len(rows) == labels.n_queries else labels.take(rows)

    def evaluate(
        self, labels: Labels, prices: Prices | None = None, n_resamples: int = 2000, seed: int = 0
    ) -> list[Estimate]:
        """Evaluate the router on labels of queries that it was not fitted to.

        Parameters
        ----------
        labels : Labels
            Of the router's targets, in any order, and perhaps of others; of queries that it was
            not fitted to, see `unseen`.
        prices : Prices, optional
            Of what answers turned out to cost. Default: those it was fitted with.
        n_resamples, seed
            Of the bootstrap.

        Returns
        -------
        list of Estimate
            As `metrics`, of the split ``"new"``.

        Raises
        ------
        InputError
            If it was fitted to some of the questions, or the labels lack a target.
        """
        seen = self.examine(labels, prices)
        return evaluate(
            self.parts, seen.labels, self.config.tau, seen.raw, seen.p, seen.expected, seen.paid,
            "new", n_resamples, seed,
        )  # fmt: skip

    def examine(self, labels: Labels, prices: Prices | None = None) -> Examined:
        """Return what the router says of labelled queries, beside what came of them.

        Parameters
        ----------
        labels, prices
            As for `evaluate`.

        Returns
        -------
        Examined

        Raises
        ------
        InputError
            As for `evaluate`.
        """
        labels = self._matched(labels)
        questions = labels.question.tolist()
        read = self._read(questions)
        paid = None
        if self.parts.costs is not None:
            inputs = self.parts.costs.input_tokens(questions, read.n_tokens)
            extra = np.repeat(read.n_tokens[:, None], len(self.config.added), axis=1)
            inputs = np.hstack([inputs, extra])
            paid = query_costs(labels, prices or self._prices(), inputs)
        return Examined(labels, read.raw, read.p, read.expected, paid)

    def _matched(self, labels: Labels) -> Labels:
        """Return the labels of the router's targets, of which it must not have seen a question."""
        if missing := [name for name in self.targets if name not in labels.targets]:
            hint = did_you_mean(missing[0], labels.targets)
            raise InputError(f"The labels have no target {missing[0]!r}.{hint}")
        if n_seen := labels.n_queries - self.unseen(labels).n_queries:
            raise InputError(
                f"The router was fitted to the questions of {n_seen:,} of {labels.n_queries:,} "
                "rows, or to others of their groups, on which it looks better than it is; leave "
                "them out: router.unseen(labels)."
            )
        return labels.select_targets(self.targets)

    def _prices(self) -> Prices:
        known = {
            name: (price.input, price.output)
            for name, price in zip(self.config.targets, self.config.prices, strict=True)
            if price.input is not None
        }
        known |= {
            record.name: (record.input, record.output)
            for record in self.config.added
            if record.input is not None
        }
        columns = ({name: price[side] for name, price in known.items()} for side in (0, 1))
        return Prices(*columns, self.config.as_of)
