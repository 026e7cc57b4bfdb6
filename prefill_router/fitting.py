"""What routers are fitted to in one fold of a study, and how their candidates are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler, normalize

from prefill_router.features import Choice, TargetFeatures
from prefill_router.study import Study
from prefill_router.text_classifier import TextClassifier
from prefill_router.trunk import SharedTrunkEnsemble

ENSEMBLE = "trunk.safetensors"


@dataclass(frozen=True)
class Fitting:
    """What a router is fitted in: one fold of a study, the encoders it reads, and a directory."""

    study: Study
    fold: int
    encoders: Sequence[str]
    directory: Path

    def features(self) -> np.ndarray:
        """x = [f_1 | ... | f_K] of all N rows, chosen and fitted on training rows."""
        return np.hstack(self.features_by_target())

    def features_by_target(self) -> list[np.ndarray]:
        """f_1, ..., f_K, each (N, d_k)."""
        return self._reduced(self.study.choices(self.encoders, self.fold))

    def distinct_features(self, targets: Sequence[int] | None = None) -> np.ndarray:
        """The same without repeats, for heads that gain nothing from reading a column twice.

        `targets` leaves out what was chosen for others than these.
        """
        largest: dict[tuple, Choice] = {}
        choices = self.study.choices(self.encoders, self.fold)
        for choice in choices if targets is None else [choices[k] for k in targets]:
            place = (choice.encoder, choice.layer, choice.pooling)
            if place not in largest or choice.dimension > largest[place].dimension:
                largest[place] = choice
        return np.hstack(self._reduced(list(largest.values())))

    def _reduced(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        activations = {c.encoder: self.study.activations(c.encoder) for c in choices}
        features = TargetFeatures(choices).fit(activations, self.study.splits[self.fold].train)
        return features.transform(activations)

    def random_features(self) -> np.ndarray:
        """Standard normal numbers in place of x, of its shape."""
        rng = np.random.default_rng(self.study.parameters.seed)
        return rng.normal(size=self.features().shape)

    def trunk(self, x: np.ndarray, shuffle: bool = False) -> np.ndarray:
        """P(correct) of all N rows by an ensemble of SharedTrunkNets on `x`, which is kept."""
        p, train = self.study.parameters, self.study.splits[self.fold].train
        Y = self.study.labels.correct[train]
        if shuffle:
            Y = Y[np.random.default_rng(p.seed).permutation(len(Y))]
        ensemble = SharedTrunkEnsemble(p.n_seeds, p.keep, random_state=p.seed)
        ensemble.fit(x[train], Y, self.study.labels.group[train]).save(self.directory / ENSEMBLE)
        return ensemble.predict_proba(x)

    def tuned_by_target(self, candidates: Sequence[BaseEstimator]) -> np.ndarray:
        """P(correct), each target's from its own f_k by the candidate that is best for it."""
        features = self.features_by_target()
        return np.hstack([self.tuned(f, candidates, targets=[k]) for k, f in enumerate(features)])

    def tuned(
        self,
        X: np.ndarray,
        candidates: Sequence[BaseEstimator],
        grouped: bool = False,
        targets: Sequence[int] | slice = slice(None),
    ) -> np.ndarray:
        """P(correct) by the candidate with the least Brier score on validation rows.

        `grouped` candidates cut an inner part off the training rows, and are told their groups.
        """
        split, Y = self.study.splits[self.fold], self.study.labels.correct[:, targets]
        extra = [self.study.labels.group[split.train]] if grouped else []
        fitted = [candidate.fit(X[split.train], Y[split.train], *extra) for candidate in candidates]
        scores = [
            np.nanmean((model.predict_proba(X[split.validation]) - Y[split.validation]) ** 2)
            for model in fitted
        ]
        return fitted[int(np.argmin(scores))].predict_proba(X)

    def embedding(self) -> np.ndarray:
        """One unit vector a query that says what it is about, (N, D)."""
        p, texts = self.study.parameters, self.study.labels.question
        if p.embedding != "lsa":
            activations = self.study.activations(p.embedding)
            pooling = "mean" if "mean" in activations.poolings else activations.poolings[0]
            return normalize(activations.states(activations.layers[-1], pooling))
        train = self.study.splits[self.fold].train
        words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit(texts[train])
        counts = words.transform(texts)
        svd = TruncatedSVD(min(100, min(counts[train].shape) - 1), random_state=p.seed)
        return normalize(svd.fit(counts[train]).transform(counts))

    def standardised_embedding(self) -> np.ndarray:
        """The embedding with every column standardised on training rows, (N, D)."""
        embedding = self.embedding()
        scaler = StandardScaler().fit(embedding[self.study.splits[self.fold].train])
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
                device=p.device,
                random_state=p.seed,
            )
            for learning_rate in learning_rates
        ]

    def lengths(self) -> np.ndarray:
        """Prompt tokens and characters of every query, (N, 2)."""
        characters = [len(question) for question in self.study.labels.question]
        return np.column_stack([self.study.activations().n_tokens, characters])
