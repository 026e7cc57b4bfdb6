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
from sklearn.preprocessing import normalize

from prefill_router.experiments.study import Study
from prefill_router.features import TargetFeatures, fit_components
from prefill_router.features.selection import Choice
from prefill_router.recipe import fit_recipe
from prefill_router.recipe.heads import HEADS, predict_each_network, tuned

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
        What the recipe leaves beside P(correct): of its S networks the losses in each epoch on rows
        that ``train`` and rows that stop them (``validation``), (S, epochs), NaN after the last;
        the numbers of the M that are ``chosen``, (M,), and P(correct) by each of these
        ``networks``, (N, M, K).
    """

    def __init__(self, study: Study, fold: int, encoders: Sequence[str] = ()):
        self.study, self.fold, self.encoders = study, fold, encoders
        self.labels, self.split, self.seed = study.labels, study.splits[fold], study.parameters.seed
        self.states = study.states(encoders)
        self.kept: dict[str, np.ndarray] = {}

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

    def distinct(self, choices: Sequence[Choice]) -> np.ndarray:
        """Return the features of all choices without repeats, (N, d), likewise.

        For heads that gain nothing from reading a column twice.
        """
        components = fit_components(choices, self.states, self.split.train)
        return components.features(components.read(self.states))

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

    def lengths(self) -> np.ndarray:
        """Prompt tokens and characters of every query, (N, 2)."""
        characters = [len(question) for question in self.labels.question]
        return np.column_stack([self.study.activations().n_tokens, characters])

    # -- P(correct) of all N rows, not calibrated ---------------------------------------------

    def recipe(self, head: str = "trunk", shuffle: bool = False) -> np.ndarray:
        """P(correct) by the recipe, its training labels shuffled between queries if asked for."""
        labels, train, recipe = self.labels, self.split.train, self.study.recipe(head)
        if shuffle:
            Y = labels.correct.copy()
            Y[train] = Y[np.random.default_rng(self.seed).permutation(train)]
            labels = replace(labels, correct=Y)
        choices = None if HEADS[head].all_layers else self.choices
        fitted = fit_recipe(recipe, labels, self.states, self.split, choices)
        raw = fitted.predictor.raw(fitted.features)
        if head == "trunk":
            each = predict_each_network(fitted.predictor.tensors, fitted.features)
            self.kept["networks"] = np.moveaxis(each, 0, 1)
            self.kept["chosen"] = np.array(fitted.model.kept_)
            for part in ("train", "validation"):
                losses = [pd.Series(history[part]) for history in fitted.model.histories_]
                self.kept[part] = pd.concat(losses, axis=1).to_numpy().T
        return raw

    def tuned(self, X: np.ndarray, candidates: Sequence[BaseEstimator]) -> np.ndarray:
        """P(correct) by the candidate with the least Brier score on validation rows."""
        best = tuned(candidates, X, self.labels.correct, self.split, self.labels.group)
        return best.predict_proba(X)

    def tuned_by_target(
        self, features: Features, candidates: Sequence[BaseEstimator]
    ) -> np.ndarray:
        """P(correct), each target's by the candidate with the least Brier score on validation rows.

        The first candidate is taken for a target without validation labels.
        """
        Y, train, v = self.labels.correct, self.split.train, self.split.validation

        def fitted(model: BaseEstimator) -> np.ndarray:
            each = zip(features, np.split(Y, len(features), axis=1), strict=True)
            return np.hstack([model.fit(X[train], y[train]).predict_proba(X) for X, y in each])

        p = np.array([fitted(model) for model in candidates])
        best = np.nansum((p[:, v] - Y[v]) ** 2, axis=1).argmin(axis=0)
        return np.take_along_axis(p, best[None, None], axis=0)[0]
