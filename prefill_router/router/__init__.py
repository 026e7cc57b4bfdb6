"""The router as an artifact: fitted once, saved as data, asked query by query."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import HfApi
from tokenizers import Tokenizer

from prefill_router.errors import InputError
from prefill_router.evaluation.results import records, results
from prefill_router.extraction.activations import Activations
from prefill_router.extraction.models import Device
from prefill_router.extraction.prompts import Query, turns_of
from prefill_router.labels import Labels
from prefill_router.labels.costs import MILLION, Prices, has_costs
from prefill_router.labels.splits import make_splits
from prefill_router.recipe import AUTO, Recipe, check_same_queries, fit_recipe
from prefill_router.recipe.cost_prediction import CostModel, fit_costs
from prefill_router.recipe.heads import Predictor
from prefill_router.router import files
from prefill_router.router.added_targets import widen
from prefill_router.router.contents import RouterConfig, Tensors, costs_of, predictor_of
from prefill_router.router.guarantee import Guarantee, certify, check_levels
from prefill_router.router.measurement import digests, evaluate, finish
from prefill_router.router.predictions import Predictions, QueryReader, find_reader, predict
from prefill_router.router.routing import Route, Rule, make_rule
from prefill_router.storage import fingerprint

RULES = 64
"""Settled policies that are kept; a service that varies its settings settles others anew."""


@dataclass(frozen=True, eq=False, repr=False)
class Router:
    """Says which of K targets to ask.

    Made from labels by `fit`, loaded by `from_pretrained`; it is saved, shared, routes, is
    evaluated, and makes other routers by `certify` and `add_target`. It never changes.

    Attributes
    ----------
    config : RouterConfig
        What it says of itself.
    tensors : mapping of str to ndarray
        All its numbers, by `prefill_router.router.contents.layout`.
    tokenizers : mapping of int to tokenizers.Tokenizer
        Of targets, by column, whose own tokenizer counts the input.
    reader : QueryReader or None
        What reads queries; None where the router was fitted to arrays.
    """

    config: RouterConfig
    tensors: Tensors
    tokenizers: Mapping[int, Tokenizer]
    reader: QueryReader | None = None

    def __repr__(self) -> str:
        return f"Router({self.config.head} between {', '.join(self.targets)})"

    # -- what it is ------------------------------------------------------------------------------

    @property
    def targets(self) -> list[str]:
        """Names of the K targets, those added since at the end."""
        return self.config.pool

    @property
    def encoder(self) -> str | None:
        """Name of the encoder; None where the router was fitted to arrays."""
        return self.config.encoder and self.config.encoder.name

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters that identify the router by content."""
        return fingerprint(self.config.model_dump(mode="json"))

    @property
    def guarantee(self) -> Guarantee:
        """The tolerance certified on held-out labels, or that none is."""
        return self.config.guarantee

    @property
    def promise(self) -> str:
        """The guarantee as a sentence, with the targets that it does not cover."""
        uncovered = [name for name in self.targets if name not in self.config.certified]
        if not uncovered or self.guarantee.tau is None:
            return str(self.guarantee)
        return (
            f"{self.guarantee} It does not cover {', '.join(uncovered)}, added since: certify "
            "anew, with labels of all targets."
        )

    @property
    def metrics(self) -> pd.DataFrame:
        """Results on the test queries, with intervals."""
        return results(self.config.metrics)

    @cached_property
    def predictor(self) -> Predictor:
        """From states to P(correct)."""
        return predictor_of(self.config, self.tensors)

    @cached_property
    def costs(self) -> CostModel | None:
        """From the same features to expected costs, where prices are known."""
        return costs_of(self.config, self.tensors, self.tokenizers)

    # -- made, saved, loaded -----------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        labels: Labels,
        states: Activations,
        *,
        prices: Prices | None = None,
        max_loss: float = 0.02,
        confidence: float = 0.95,
        tokenizers: Mapping[str, str | os.PathLike] | None = None,
        encoder_price: float | None = None,
        n_resamples: int = 2000,
        **recipe: Any,
    ) -> Router:
        """Make a router from labels and an encoder's states.

        Layers, features, head and answer lengths are fitted on training queries, calibration and
        policies on validation queries; the tolerance is certified and everything evaluated on test
        queries. No group of queries is on two sides.

        Parameters
        ----------
        labels : Labels
            Which target answered which query correctly. Their own split is kept if they have one.
        states : Activations
            Of the same queries in the same order: from ``extract(encoder, labels.question)``, or
            from arrays of one's own, and then the router reads states instead of queries.
        prices : Prices, optional
            Without them, and without `cost_usd` in the labels, policies know no costs.
        max_loss, confidence : float, default 0.02 and 0.95
            What the certified tolerance promises: see `prefill_router.router.guarantee.certify`.
        tokenizers : mapping of str to path, optional
            Of targets whose input tokens are counted by their own ``tokenizer.json`` (or the
            directory that holds it). The encoder's tokenizer counts for the others.
        encoder_price : float, optional
            What the encoder's prefill costs, in USD per million tokens. Default: the price table's
            input price of that name; where it has none, no saving includes it.
        n_resamples : int, default 2000
            Of the bootstrap.
        **recipe
            Fields of `prefill_router.recipe.Recipe`, such as `head`, which is "auto" by default,
            `n_seeds`, `seed` and `device`, which also reads queries afterwards.

        Returns
        -------
        Router

        Raises
        ------
        InputError
            If labels, states, prices or a parameter cannot be used.
        """
        check_levels(max_loss, confidence)
        how = Recipe(**{"head": AUTO, **recipe})
        split = make_splits(labels, seed=how.seed)[0]
        own = files.read_own_tokenizers(tokenizers or {}, labels.targets)
        fitted = fit_recipe(how, labels, states, split)
        features, costs, n_tokens = fitted.features, None, None
        if has_costs(labels, prices):
            n_tokens = states.full_tokens
            costs = fit_costs(labels, prices, features, split.train, n_tokens, own, how.seed)
        said = predict(fitted.predictor, costs, features, n_tokens, labels.question.tolist())
        seen = replace(said, labels=labels).priced(prices)
        levels = {"max_loss": max_loss, "confidence": confidence}
        config, tensors = finish(fitted, costs, seen, split, prices, states.encoder, **levels)
        router = cls(config, tensors, own, find_reader(config, how.device))
        tested, encoder_cost = seen.take(split.test), None
        if encoder_price is None and prices is not None:
            encoder_price = prices.input.get(router.encoder)
        if encoder_price is not None and costs is not None:
            encoder_cost = tested.n_tokens * encoder_price / MILLION
        metrics = evaluate(router, tested, encoder_cost, n_resamples=n_resamples, seed=how.seed)
        return router._changed(metrics=records(metrics))

    def _changed(self, **update: Any) -> Router:
        return replace(self, config=self.config.model_copy(update=update))

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write the router, with a model card, into a directory, which is made if need be.

        Returns
        -------
        pathlib.Path
            The directory.
        """
        files.write(Path(directory), self.config, self.tensors, self.tokenizers)
        return Path(directory)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        revision: str | None = None,
        device: Device = "cpu",
        encoder: str | None = None,
    ) -> Router:
        """Load a router. Nothing in it, nor in its encoder, is executed.

        Parameters
        ----------
        name : str or path-like
            A directory, or ``owner/name`` on the Hugging Face hub.
        revision : str, optional
            A commit, branch or tag on the hub.
        device : device, default "cpu"
            Where the encoder reads; it is loaded for the first query.
        encoder : str, optional
            Where the encoder lies, if not under the name it had; its hash must be the same.

        Returns
        -------
        Router

        Raises
        ------
        InputError
            If there is no router, a file is not what it says it is, or the encoder is missing or
            another one.
        """
        config, tensors, tokenizers = files.read(files.find(os.fspath(name), revision))
        return cls(config, tensors, tokenizers, find_reader(config, device, encoder))

    def push_to_hub(
        self, repo_id: str, *, token: str | None = None, private: bool | None = None, **upload: Any
    ) -> str:
        """Upload the router to the Hugging Face hub, into a repository that is made if need be.

        Parameters
        ----------
        repo_id : str
            ``owner/name``.
        token : str, optional
            Default: the one that ``hf auth login`` keeps.
        private : bool, optional
            Of a new repository. Default: as the owner's settings say.
        **upload
            Keywords of `huggingface_hub.HfApi.upload_folder`, such as `commit_message`, `revision`
            and `create_pr`.

        Returns
        -------
        str
            The address of the commit.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as directory:
            upload = {"commit_message": "Upload a router"} | upload
            folder = self.save_pretrained(directory)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, **upload).commit_url

    # -- in use ----------------------------------------------------------------------------------

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
        queries: Sequence[Query] | Activations,
        policy: str = "tolerance",
        *,
        exclude: Sequence[str] = (),
        **settings: float | None,
    ) -> list[Route]:
        """Say for each query which target to ask.

        Parameters
        ----------
        queries : sequence of str or of messages, or Activations
        policy : {"tolerance", "argmax", "utility", "budget", "abstain"}
        exclude : sequence of str
            Targets that cannot be asked now.
        **settings
            The policy's own parameter, `tau`, `lam`, `budget` or `accuracy`: see
            `prefill_router.router.routing.make_rule`.

        Returns
        -------
        list of Route

        Raises
        ------
        InputError
            If a query cannot be read, `make_rule` refuses a setting, or the router has no encoder
            to read queries with.
        """
        exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        rule = self._rule(policy, exclude, **settings)
        said = self._read(queries)
        return rule.routes(said.p, said.expected)

    @cached_property
    def _rule(self) -> Callable[..., Rule]:
        return lru_cache(RULES)(partial(make_rule, self.config, self.tensors))

    def choices(self, said: Predictions) -> dict[str, np.ndarray]:
        """Return which targets each policy asks, (N,) by name; ``"certified"`` is the default."""
        rules = {
            "argmax": self._rule("argmax"),
            "tolerance": self._rule("tolerance", tau=self.config.tau),
            "certified": self._rule("tolerance"),
        }
        if self.costs is not None:
            rules["utility"] = self._rule("utility")
        return {name: rule.choose(said.p, said.expected) for name, rule in rules.items()}

    def predict_proba(self, queries: Sequence[Query] | Activations) -> np.ndarray:
        """Return calibrated P(correct), (N, K), of queries or of their states."""
        return self._read(queries).p

    def expected_costs(self, queries: Sequence[Query] | Activations) -> np.ndarray:
        """Return the expected cost of asking each target, (N, K) in USD.

        Raises
        ------
        InputError
            If the router was fitted without prices.
        """
        if self.costs is None:
            raise InputError("This router was fitted without prices; fit it with prices.")
        return self._read(queries).expected

    def _read(
        self, queries: Sequence[Query] | Activations, states: Activations | None = None
    ) -> Predictions:
        """Return what is said of queries, read by the encoder or by their states."""
        if isinstance(queries, Activations):
            queries, states = None, queries
        if isinstance(queries, str):
            raise InputError(
                f"The queries are one text, {queries!r:.80}; put it in a list, or use route(query)."
            )
        if states is not None:
            if queries is not None:
                check_same_queries(states, len(queries))
            read = self.predictor.read(states)
            n_tokens = None if self.costs is None else states.full_tokens
        elif self.reader is None:
            raise InputError(
                "This router was fitted to arrays of states, and has no encoder to read queries; "
                "give it their states (Activations)."
            )
        else:
            for number, query in enumerate(queries):
                if not any(t["content"].strip() for t in turns_of(query, f"Question {number}")):
                    raise InputError(f"Question {number} is empty: there is nothing to route by.")
            read, n_tokens = self.reader.read(queries)
        features = self.predictor.features(read)
        return predict(self.predictor, self.costs, features, n_tokens, queries, self.config.added)

    # -- held against labels -----------------------------------------------------------------------

    def is_seen(self, labels: Labels) -> np.ndarray:
        """Say which rows `unseen` leaves out, bool (N,)."""
        seen = np.isin(digests(labels.question), self.tensors["seen"])
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
        seen = self.is_seen(labels)
        if seen.all():
            raise InputError(
                f"The router was fitted to the questions of all {labels.n_queries:,} rows, or to "
                "others of their groups; give labels of other queries."
            )
        return labels.take(~seen) if seen.any() else labels

    def evaluate(
        self,
        labels: Labels,
        prices: Prices | None = None,
        *,
        states: Activations | None = None,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Evaluate the router on labels of queries that it was not fitted to.

        Parameters
        ----------
        labels, prices, states
            As for `examine`.
        n_resamples, seed
            Of the bootstrap.

        Returns
        -------
        pandas.DataFrame
            Results as in `metrics`, of the split ``"new"``.

        Raises
        ------
        InputError
            As for `examine`.
        """
        seen = self.examine(labels, prices, states=states)
        return evaluate(self, seen, split="new", n_resamples=n_resamples, seed=seed)

    def examine(
        self, labels: Labels, prices: Prices | None = None, *, states: Activations | None = None
    ) -> Predictions:
        """Return what the router says of labelled queries, beside what came of them.

        Parameters
        ----------
        labels : Labels
            Of the router's targets, in any order, and perhaps of others; of queries that it was
            not fitted to, see `unseen`.
        prices : Prices, optional
            Of what answers turned out to cost. Default: those it was fitted with.
        states : Activations, optional
            Of the same queries. Default: its encoder reads them.

        Returns
        -------
        Predictions

        Raises
        ------
        InputError
            If it was fitted to some of the questions, or the labels lack a target.
        """
        if prices is None and self.config.prices is not None:
            prices = Prices(**self.config.prices.model_dump())
        return self._ask(labels, states).priced(prices)

    def _ask(self, labels: Labels, states: Activations | None) -> Predictions:
        """Return what it says of labelled queries, none of which it has seen."""
        labels = labels.select_targets(self.targets)
        if n_seen := int(self.is_seen(labels).sum()):
            raise InputError(
                f"The router was fitted to the questions of {n_seen:,} of {labels.n_queries:,} "
                "rows, or to others of their groups; leave them out: router.unseen(labels)."
            )
        return replace(self._read(labels.question.tolist(), states), labels=labels)

    # -- amended by further labels -----------------------------------------------------------------

    def certify(
        self,
        labels: Labels,
        max_loss: float = 0.02,
        confidence: float = 0.95,
        *,
        states: Activations | None = None,
    ) -> Router:
        """Return the router with the guarantee that other held-out labels allow.

        Parameters
        ----------
        labels : Labels
            Of queries that neither the fit nor any choice has seen, see `unseen`; best of those
            that were not among its test queries either.
        max_loss, confidence : float
            As for `prefill_router.router.guarantee.certify`.
        states : Activations, optional
            Of the same queries. Default: its encoder reads them.

        Returns
        -------
        Router
            Without the results of the certified tolerance that it had before.

        Raises
        ------
        InputError
            If it was fitted to some of the questions, or the labels lack a target.
        """
        seen = self._ask(labels, states)
        at = seen.evaluation(self.guarantee.best_single, seen.costs)
        promise = certify(at, seen.p, max_loss=max_loss, confidence=confidence)
        added = [record.model_copy(update={"certified": True}) for record in self.config.added]
        metrics = [row for row in self.config.metrics if row["router"] != "certified"]
        return self._changed(guarantee=promise, added=added, metrics=metrics)

    def add_target(
        self,
        labels: Labels,
        prices: Prices | None = None,
        *,
        states: Activations | None = None,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> tuple[Router, pd.DataFrame]:
        """Return the router with one target more, from few labels of it.

        Its probability is read off those of the other targets: what they find hard it is supposed
        to find hard, as far as its own labels do not say otherwise. Fit a new router once there are
        many.

        Parameters
        ----------
        labels : Labels
            Of the new target alone; best of queries that the router was not fitted to (`unseen`),
            on which it predicts the others too well. From then on they count as seen, and with
            them all of their groups in `labels`.
        prices : Prices, optional
            With the new target's; needed where the router knows costs and not all labels have
            `cost_usd`.
        states : Activations, optional
            Of the same queries. Default: its encoder reads them.
        n_resamples, seed
            Of the bootstrap, and of the folds that say how sure it is.

        Returns
        -------
        router : Router
            Its guarantee does not cover the new target until `certify` is given labels of all.
        results : pandas.DataFrame
            How sure it is: see `prefill_router.router.added_targets.fit_added`.

        Raises
        ------
        InputError
            If the labels are too few, all alike or of several targets, the target is known
            already, or its costs are not.
        """
        if labels.n_targets != 1 or labels.targets[0] in self.targets:
            raise InputError(
                f"The labels must be of one target that the router does not know, not of "
                f"{', '.join(labels.targets)} (it knows {', '.join(self.targets)})."
            )
        said = replace(self._read(labels.question.tolist(), states), labels=labels)
        asked = said.take(np.flatnonzero(~np.isnan(labels.correct[:, 0])))
        config, tensors = widen(self.config, self.tensors, asked, prices, n_resamples, seed)
        questions = labels.question[np.isin(labels.group, asked.labels.group)]
        tensors["seen"] = np.union1d(tensors["seen"], digests(questions))
        config = config.model_copy(update={"tensors": files.tensors_digest(tensors)})
        router = replace(self, config=config, tensors=tensors)
        return router, results(config.added[-1].metrics)
