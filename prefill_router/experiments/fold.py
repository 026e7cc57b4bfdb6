"""One fold of a study: features of all queries and heads, fitted on its training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler, normalize

from prefill_router.experiments.study import Study
from prefill_router.features import TargetFeatures, fit_components
from prefill_router.features.selection import Choice
from prefill_router.recipe import fit_recipe
from prefill_router.recipe.heads import HEADS, predict_each_network, train_networks, tuned

Features = list[np.ndarray]
"""What a head reads: one matrix (N, d_k) a target, or a single one (N, d) for all of them."""


class FoldFit:
    """What a router is fitted with in one fold of a study.

    Parameters
    ----------
    study : Study
    fold : int
    encoders : sequence of str
        Whose states are read.

    Attributes
    ----------
    labels, split, seed
        The study's labels, the fold's rows and the study's seed.
    states : dict of str to Activations
        By encoder.
    kept : dict of str to ndarray
        What is kept beside P(correct): ``tried``, how many settings were compared on validation
        rows. Of the recipe's S networks the losses in each epoch on rows that ``train`` and rows
        that stop them (``validation``), (S, epochs), NaN after the last; the numbers of the M that
        are ``chosen``, (M,), and P(correct) by each of these ``networks``, (N, M, K).
    """

    def __init__(self, study: Study, fold: int, encoders: Sequence[str] = ()):
        self.study, self.fold, self.encoders = study, fold, encoders
        self.labels, self.split, self.seed = study.labels, study.splits[fold], study.parameters.seed
        self.states = study.states(encoders)
        self.kept = {"tried": np.zeros((), int)}

    @cached_property
    def choices(self) -> list[Choice]:
        """The place and dimension chosen for each target on training rows."""
        return self.study.choices(self.encoders, self.fold)

    # -- features of all N rows ---------------------------------------------------------------

    def features(self) -> np.ndarray:
        """x = [f_1 | ... | f_K], chosen and fitted on training rows."""
        return np.hstack(self.reduced(self.choices))

    def reduced(self, choices: Sequence[Choice]) -> Features:
        """Return the features of each choice, (N, d), fitted on training rows."""
        return TargetFeatures(choices).fit(self.states, self.split.train).transform(self.states)

    def distinct_features(
        self, most: int | None = None, targets: Sequence[int] | None = None
    ) -> np.ndarray:
        """x without repeats, for heads that gain nothing from reading a column twice.

        Of each layer and pooling `most` components are taken at most; `targets` leaves out what was
        chosen for others than these.
        """
        chosen = self.choices
        capped = [
            replace(choice, dimension=min(choice.dimension, most or choice.dimension))
            for choice in (chosen if targets is None else [chosen[k] for k in targets])
        ]
        components = fit_components(capped, self.states, self.split.train)
        return components.features(components.read(self.states))

    def random_features(self) -> np.ndarray:
        """Standard normal numbers in place of x, of its shape."""
        return np.random.default_rng(self.seed).normal(size=self.features().shape)

    def embedding(self) -> np.ndarray:
        """One unit vector a query that says what it is about, (N, D), by words or an encoder."""
        if (encoder := self.study.parameters.embedding) != "lsa":
            states = self.study.activations(encoder)
            pooling = "mean" if "mean" in states.poolings else states.poolings[0]
            return normalize(states.states(states.layers[-1], pooling))
        texts, train = self.labels.question, self.split.train
        words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit(texts[train])
        counts = words.transform(texts)
        dimension = min(100, min(counts[train].shape) - 1)
        svd = TruncatedSVD(dimension, random_state=self.seed)
        return normalize(svd.fit(counts[train]).transform(counts))

    def standardised_embedding(self) -> np.ndarray:
        """The embedding with every column standardised on training rows, (N, D)."""
        embedding = self.embedding()
        return StandardScaler().fit(embedding[self.split.train]).transform(embedding)

    def lengths(self) -> np.ndarray:
        """Prompt tokens and characters of every query, (N, 2)."""
        characters = [len(question) for question in self.labels.question]
        return np.column_stack([self.study.activations().n_tokens, characters])

    # -- P(correct) of all N rows, not calibrated ---------------------------------------------

    def recipe(self, head: str = "trunk", shuffle: bool = False) -> np.ndarray:
        """P(correct) by the recipe, its training labels shuffled between queries if asked for."""
        Y, train, recipe = self.labels.correct, self.split.train, self.study.recipe(head)
        if shuffle:
            Y = Y.copy()
            Y[train] = Y[np.random.default_rng(self.seed).permutation(train)]
        choices = None if HEADS[head].all_layers else self.choices
        labels = replace(self.labels, correct=Y)
        fitted = fit_recipe(recipe, labels, self.states, self.split, choices)
        self.kept["tried"] += fitted.n_tried
        if head == "trunk":
            each = predict_each_network(fitted.predictor.tensors, fitted.features)
            self.kept["networks"] = np.moveaxis(each, 0, 1)
            self.kept["chosen"] = np.array(fitted.model.kept_)
            for part in ("train", "validation"):
                losses = [pd.Series(history[part]) for history in fitted.model.histories_]
                self.kept[part] = pd.concat(losses, axis=1).to_numpy().T
        return fitted.predictor.raw(fitted.features)

    def trunk(self, x: np.ndarray) -> np.ndarray:
        """P(correct) by SharedTrunkNets on other features than the recipe's."""
        correct, group = self.labels.correct, self.labels.group
        ensemble = train_networks(self.study.recipe(), x, correct, group, self.split.train)
        return ensemble.predict_proba(x)

    def tuned(self, X: np.ndarray, candidates: Sequence[BaseEstimator]) -> np.ndarray:
        """P(correct) by the candidate with the least Brier score on validation rows."""
        self.kept["tried"] += len(candidates)
        best = tuned(candidates, X, self.labels.correct, self.split, self.labels.group)
        return best.predict_proba(X)

    def tuned_by_target(
        self, features: Features, candidates: Sequence[BaseEstimator]
    ) -> np.ndarray:
        """P(correct), each target's by the candidate with the least Brier score on validation rows.

        The first candidate is taken for a target without validation labels.
        """
        Y, v = self.labels.correct, self.split.validation
        self.kept["tried"] += len(candidates) * Y.shape[1]
        p = np.array([_predict(features, model, Y, self.split.train) for model in candidates])
        squares = np.nansum((p[:, v] - Y[v]) ** 2, axis=1)
        return np.take_along_axis(p, squares.argmin(axis=0)[None, None], axis=0)[0]


def _predict(
    features: Features, model: BaseEstimator, Y: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """P(correct), (N, K), of each target by its own features, or of all by the same."""
    parts = np.split(Y, len(features), axis=1)
    fitted = zip(features, parts, strict=True)
    return np.hstack([model.fit(X[train], y[train]).predict_proba(X) for X, y in fitted])
