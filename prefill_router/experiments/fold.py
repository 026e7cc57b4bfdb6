"""What is known of one fold of a study: features of all queries, fitted on its training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler, normalize

from prefill_router.experiments.study import Study
from prefill_router.features import TargetFeatures
from prefill_router.features.selection import Choice
from prefill_router.labels.splits import Split


@dataclass(frozen=True)
class Fold:
    """One fold of a study, and the encoders whose states are read."""

    study: Study
    fold: int
    encoders: Sequence[str]

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
        return self.reduced([Choice(*place, dimension) for place in places])

    def reduced(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """Return the features of each choice, (N, d), fitted on training rows."""
        activations = {c.encoder: self.study.activations(c.encoder) for c in choices}
        features = TargetFeatures(choices).fit(activations, self.split.train)
        return features.transform(activations)

    def random_features(self) -> np.ndarray:
        """Standard normal numbers in place of x, of its shape."""
        rng = np.random.default_rng(self.study.parameters.seed)
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
        svd = TruncatedSVD(dimension, random_state=self.study.parameters.seed)
        return normalize(svd.fit(counts[train]).transform(counts))

    def standardised_embedding(self) -> np.ndarray:
        """The embedding with every column standardised on training rows, (N, D)."""
        embedding = self.embedding()
        scaler = StandardScaler().fit(embedding[self.split.train])
        return scaler.transform(embedding)

    def lengths(self) -> np.ndarray:
        """Prompt tokens and characters of every query, (N, 2)."""
        characters = [len(question) for question in self.study.labels.question]
        return np.column_stack([self.study.activations().n_tokens, characters])
