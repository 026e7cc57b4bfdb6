"""What routers are fitted to in one fold of a study, and how their candidates are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler, normalize

from prefill_router.baselines.text_classifier import TextClassifier
from prefill_router.features import Choice, TargetFeatures
from prefill_router.labels.splits import Split
from prefill_router.study import Study
from prefill_router.trunk import SharedTrunkEnsemble

ENSEMBLE = "trunk.safetensors"


@dataclass(frozen=True)
class Fitting:
    """What a router is fitted in: one fold of a study, the encoders it reads, and a directory.

    `tried` collects how many configurations were compared, each time some were.
    """

    study: Study
    fold: int
    encoders: Sequence[str]
    directory: Path
    tried: list[int] = field(default_factory=list)

    @property
    def correct(self) -> np.ndarray:
        """The labels, (N, K)."""
        return self.study.labels.correct

    @property
    def split(self) -> Split:
        """The fold's rows."""
        return self.study.splits[self.fold]

    def features(self) -> np.ndarray:
        """x = [f_1 | ... | f_K] of all N rows, chosen and fitted on training rows."""
        return np.hstack(self.features_by_target())

    def features_by_target(self) -> list[np.ndarray]:
        """f_1, ..., f_K, each (N, d_k)."""
        return self._reduced(self.study.choices(self.encoders, self.fold))

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
        return np.hstack(self._reduced(list(largest.values())))

    def layers(self, n_columns: int) -> list[np.ndarray]:
        """Return every layer and pooling of every encoder read, each (N, d), standardised, reduced.

        They share `n_columns` evenly: d is the share of each, or its width if that is less.
        """
        places = [
            (encoder, layer, pooling)
            for encoder in self.encoders
            for layer in self.study.activations(encoder).layers
            for pooling in self.study.activations(encoder).poolings
        ]
        dimension = max(1, n_columns // len(places))
        return self._reduced([Choice(*place, dimension) for place in places])

    def _reduced(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        activations = {c.encoder: self.study.activations(c.encoder) for c in choices}
        features = TargetFeatures(choices).fit(activations, self.split.train)
        return features.transform(activations)

    def random_features(self) -> np.ndarray:
        """Standard normal numbers in place of x, of its shape."""
        rng = np.random.default_rng(self.study.parameters.seed)
        return rng.normal(size=self.features().shape)

    def trunk(self, x: np.ndarray, shuffle: bool = False) -> np.ndarray:
        """P(correct) of all N rows by an ensemble of SharedTrunkNets on `x`, which is kept."""
        Y = self.correct
        if shuffle:
            Y, train = Y.copy(), self.split.train
            rng = np.random.default_rng(self.study.parameters.seed)
            Y[train] = Y[train][rng.permutation(len(train))]
        ensemble = self.ensemble(x, Y)
        ensemble.save(self.directory / ENSEMBLE)
        return ensemble.predict_proba(x)

    def ensemble(self, x: np.ndarray, Y: np.ndarray) -> SharedTrunkEnsemble:
        """Train SharedTrunkNets on the training rows of `x` with a label in Y (N, M)."""
        p, train = self.study.parameters, self.split.train
        rows = train[~np.isnan(Y[train]).all(axis=1)]
        ensemble = SharedTrunkEnsemble(p.n_seeds, p.keep, random_state=p.seed)
        groups, device = self.study.labels.group[rows], self.study.training_device
        return ensemble.fit(x[rows], Y[rows], groups, device)

    def tuned_by_target(self, candidates: Sequence[BaseEstimator]) -> np.ndarray:
        """P(correct), each target's from its own f_k by the candidate that is best for it."""
        features = self.features_by_target()
        by_target = zip(features, self.correct.T, strict=True)
        return np.hstack([self.tuned(f, candidates, Y=labels[:, None]) for f, labels in by_target])

    def tuned(
        self,
        X: np.ndarray,
        candidates: Sequence[BaseEstimator],
        grouped: bool = False,
        Y: np.ndarray | None = None,
    ) -> np.ndarray:
        """P(correct) by the candidate with the least Brier score on validation rows.

        `grouped` candidates cut an inner part off the training rows, and are told their groups and
        what to train on. `Y` (N, M) are other labels than those of all targets.
        """
        split, Y = self.split, self.correct if Y is None else Y
        self.tried.append(len(candidates))
        study = self.study
        extra = [study.labels.group[split.train], study.training_device] if grouped else []
        fitted = [candidate.fit(X[split.train], Y[split.train], *extra) for candidate in candidates]
        scores = [
            np.nanmean((model.predict_proba(X[split.validation]) - Y[split.validation]) ** 2)
            for model in fitted
        ]
        return fitted[int(np.argmin(scores))].predict_proba(X)

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
        svd = TruncatedSVD(dimension, random_state=self.study.parameters.seed)
        return normalize(svd.fit(counts[train]).transform(counts))

    def standardised_embedding(self) -> np.ndarray:
        """The embedding with every column standardised on training rows, (N, D)."""
        embedding = self.embedding()
        scaler = StandardScaler().fit(embedding[self.split.train])
        return scaler.transform(embedding)

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
            )
            for learning_rate in learning_rates
        ]

    def lengths(self) -> np.ndarray:
        """Prompt tokens and characters of every query, (N, 2)."""
        characters = [len(question) for question in self.study.labels.question]
        return np.column_stack([self.study.activations().n_tokens, characters])
