"""One fold of a study: features of all queries and heads, fitted on its training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils.validation import has_fit_parameter

from prefill_router.baselines.text_classifier import TextClassifier
from prefill_router.experiments.study import Study
from prefill_router.features import TargetFeatures
from prefill_router.features.selection import Choice
from prefill_router.labels.splits import Split
from prefill_router.recipe import all_places, fit_predictor
from prefill_router.recipe.heads import predict_each_network
from prefill_router.trunk import SharedTrunkEnsemble

ENSEMBLE, NETWORKS = "trunk.safetensors", "networks.safetensors"


@dataclass(frozen=True)
class FoldFit:
    """What a router is fitted with in one fold of a study.

    Attributes
    ----------
    study : Study
    fold : int
    encoders : sequence of str
        Whose states are read.
    directory : pathlib.Path, optional
        Where the recipe's networks, and what each of them predicts, are kept.
    tried : list of int
        Settings compared on validation rows, each time some were.
    """

    study: Study
    fold: int
    encoders: Sequence[str] = ()
    directory: Path | None = None
    tried: list[int] = field(default_factory=list)

    @property
    def correct(self) -> np.ndarray:
        """The labels, (N, K)."""
        return self.study.labels.correct

    @property
    def split(self) -> Split:
        """The fold's rows."""
        return self.study.splits[self.fold]

    @property
    def seed(self) -> int:
        """The study's seed."""
        return self.study.parameters.seed

    # -- features of all N rows ---------------------------------------------------------------

    def features(self) -> np.ndarray:
        """x = [f_1 | ... | f_K], chosen and fitted on training rows."""
        return np.hstack(self.features_by_target())

    def features_by_target(self) -> list[np.ndarray]:
        """f_1, ..., f_K, each (N, d_k)."""
        return self.reduced(self.study.choices(self.encoders, self.fold))

    def distinct_features(
        self, most: int | None = None, targets: Sequence[int] | None = None
    ) -> np.ndarray:
        """The same without repeats, for heads that gain nothing from reading a column twice.

        Of each layer and pooling `most` components are taken at most; `targets` leaves out what was
        chosen for others than these.
        """
        largest: dict[tuple, Choice] = {}
        choices = self.study.choices(self.encoders, self.fold)
        for choice in choices if targets is None else [choices[k] for k in targets]:
            place = (choice.encoder, choice.layer, choice.pooling)
            if place not in largest or choice.dimension > largest[place].dimension:
                dimension = min(choice.dimension, most or choice.dimension)
                largest[place] = replace(choice, dimension=dimension)
        return np.hstack(self.reduced(list(largest.values())))

    def all_layers(self, n_columns: int) -> np.ndarray:
        """Every layer and pooling of every encoder read; they share `n_columns` evenly."""
        places = all_places(self.study.states(self.encoders), n_columns)
        return np.hstack(self.reduced(places))

    def reduced(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """Return the features of each choice, (N, d), fitted on training rows."""
        states = self.study.states({choice.encoder for choice in choices})
        return TargetFeatures(choices).fit(states, self.split.train).transform(states)

    def random_features(self) -> np.ndarray:
        """Standard normal numbers in place of x, of its shape."""
        rng = np.random.default_rng(self.seed)
        return rng.normal(size=self.features().shape)

    def embedding(self) -> np.ndarray:
        """One unit vector a query that says what it is about, (N, D)."""
        p = self.study.parameters
        if p.embedding == "lsa":
            return self.latent_semantics()
        activations = self.study.activations(p.embedding)
        pooling = "mean" if "mean" in activations.poolings else activations.poolings[0]
        return normalize(activations.states(activations.layers[-1], pooling))

    def latent_semantics(self) -> np.ndarray:
        """Unit vectors, (N, at most 100), of the words in each query."""
        texts, train = self.study.labels.question, self.split.train
        words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit(texts[train])
        counts = words.transform(texts)
        dimension = min(100, min(counts[train].shape) - 1)
        svd = TruncatedSVD(dimension, random_state=self.seed)
        return normalize(svd.fit(counts[train]).transform(counts))

    def standardised_embedding(self) -> np.ndarray:
        """The embedding with every column standardised on training rows, (N, D)."""
        embedding = self.embedding()
        scaler = StandardScaler().fit(embedding[self.split.train])
        return scaler.transform(embedding)

    def texts(self) -> np.ndarray:
        """The queries themselves, (N,)."""
        return self.study.labels.question

    def benchmarks(self) -> np.ndarray:
        """The benchmark of every query, (N,)."""
        return self.study.labels.benchmark

    def lengths(self) -> np.ndarray:
        """Prompt tokens and characters of every query, (N, 2)."""
        characters = [len(question) for question in self.study.labels.question]
        return np.column_stack([self.study.activations().n_tokens, characters])

    # -- P(correct) of all N rows, not calibrated ---------------------------------------------

    def recipe(self, head: str = "trunk", shuffle: bool = False) -> np.ndarray:
        """P(correct) by the recipe, its training labels shuffled between queries if asked for."""
        study, Y = self.study, self.correct
        if shuffle:
            Y, train = Y.copy(), self.split.train
            rng = np.random.default_rng(self.seed)
            Y[train] = Y[train][rng.permutation(len(train))]
        states, choices = study.states(self.encoders), study.choices(self.encoders, self.fold)
        recipe = study.recipe(head)
        fitted = fit_predictor(recipe, Y, study.labels.group, states, self.split, choices)
        self.tried.append(fitted.n_tried)
        predictor = fitted.predictor
        features = predictor.features(predictor.read(states))
        if self.directory and predictor.head == "trunk":
            fitted.model.save(self.directory / ENSEMBLE)
            each = np.moveaxis(predict_each_network(predictor.tensors, features), 0, 1)
            save_file({"p": each.copy("C")}, self.directory / NETWORKS)
        return predictor.raw(features)

    def trunk(self, x: np.ndarray) -> np.ndarray:
        """P(correct) by SharedTrunkNets on other features than the recipe's."""
        return self.ensemble(x, self.correct).predict_proba(x)

    def ensemble(self, x: np.ndarray, Y: np.ndarray) -> SharedTrunkEnsemble:
        """Train SharedTrunkNets on the training rows of `x` with a label in Y (N, M)."""
        p, train, device = self.study.parameters, self.split.train, self.study.training_device
        rows = train[~np.isnan(Y[train]).all(axis=1)]
        ensemble = SharedTrunkEnsemble(p.n_seeds, p.keep, random_state=p.seed, device=device)
        return ensemble.fit(x[rows], Y[rows], self.study.labels.group[rows])

    def tuned(
        self,
        X: np.ndarray,
        candidates: Sequence[BaseEstimator],
        Y: np.ndarray | None = None,
    ) -> np.ndarray:
        """P(correct) by the candidate with the least Brier score on validation rows.

        Candidates whose `fit` takes groups, to cut off an inner part, get them. `Y` (N, M) are
        other labels than those of all targets.
        """
        split, Y = self.split, self.correct if Y is None else Y
        self.tried.append(len(candidates))
        fitted = []
        for candidate in candidates:
            grouped = has_fit_parameter(candidate, "groups")
            extra = [self.study.labels.group[split.train]] if grouped else []
            fitted.append(candidate.fit(X[split.train], Y[split.train], *extra))
        scores = [
            np.nanmean((model.predict_proba(X[split.validation]) - Y[split.validation]) ** 2)
            for model in fitted
        ]
        return fitted[int(np.argmin(scores))].predict_proba(X)

    def tuned_by_target(self, candidates: Sequence[BaseEstimator]) -> np.ndarray:
        """P(correct), each target's from its own f_k by the candidate that is best for it."""
        by_target = zip(self.features_by_target(), self.correct.T, strict=True)
        return np.hstack([self.tuned(f, candidates, Y=labels[:, None]) for f, labels in by_target])

    def text_classifiers(self, learning_rates: Sequence[float]) -> list[TextClassifier]:
        """Classifiers to be fine-tuned from the encoder that is read."""
        p = self.study.parameters
        return [
            TextClassifier(
                self.study.source(self.encoders[0]),
                learning_rate=learning_rate,
                max_tokens=p.max_tokens or None,
                truncation=p.truncation,
                random_state=p.seed,
                device=self.study.training_device,
            )
            for learning_rate in learning_rates
        ]
