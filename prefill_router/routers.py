"""Every router compared: fitted on a split's training rows, tuned on its validation rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from prefill_router.baselines import (
    BenchmarkAware,
    Clusters,
    LengthOnly,
    NearestNeighbours,
    TargetLogistic,
    TfidfLogistic,
    TrainingAccuracy,
)
from prefill_router.features import Choice, TargetFeatures
from prefill_router.progress import track
from prefill_router.study import Study
from prefill_router.trunk import SharedTrunkEnsemble

PRIMARY = "SharedTrunkNet"
PAIRED = "SharedTrunkNet, best encoder per target"
UNTRAINED = "SharedTrunkNet, untrained encoder"
SHUFFLED = "SharedTrunkNet, shuffled labels"
LOGISTIC = "logistic per target, same features"
TFIDF = "TF-IDF + logistic"
NEIGHBOURS = "nearest neighbours, embedding"
CLUSTERS = "k-means clusters, embedding"
BENCHMARK = "benchmark-aware"
LENGTH = "length only"
ACCURACY = "training accuracy"
CONTROLS = (UNTRAINED, SHUFFLED)
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
        return self._reduced(self.study.choices(self.encoders, self.fold))

    def distinct_features(self) -> np.ndarray:
        """The same without repeats, for heads that gain nothing from reading a column twice."""
        largest: dict[tuple, Choice] = {}
        for choice in self.study.choices(self.encoders, self.fold):
            place = (choice.encoder, choice.layer, choice.pooling)
            if place not in largest or choice.dimension > largest[place].dimension:
                largest[place] = choice
        return self._reduced(list(largest.values()))

    def _reduced(self, choices: Sequence[Choice]) -> np.ndarray:
        activations = {c.encoder: self.study.activations(c.encoder) for c in choices}
        features = TargetFeatures(choices).fit(activations, self.study.splits[self.fold].train)
        return np.hstack(features.transform(activations))

    def trunk(self, shuffle: bool = False) -> np.ndarray:
        """P(correct) of all N rows by an ensemble of SharedTrunkNets, which is kept."""
        p, train = self.study.parameters, self.study.splits[self.fold].train
        Y = self.study.labels.correct[train]
        if shuffle:
            Y = Y[np.random.default_rng(p.seed).permutation(len(Y))]
        x = self.features()
        ensemble = SharedTrunkEnsemble(p.n_seeds, p.keep, random_state=p.seed)
        ensemble.fit(x[train], Y, self.study.labels.group[train]).save(self.directory / ENSEMBLE)
        return ensemble.predict_proba(x)

    def tuned(self, X: np.ndarray, candidates: Sequence[BaseEstimator]) -> np.ndarray:
        """P(correct) by the candidate with the least Brier score on validation rows."""
        split, Y = self.study.splits[self.fold], self.study.labels.correct
        fitted = [candidate.fit(X[split.train], Y[split.train]) for candidate in candidates]
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

    def lengths(self) -> np.ndarray:
        """Prompt tokens and characters of every query, (N, 2)."""
        characters = [len(question) for question in self.study.labels.question]
        return np.column_stack([self.study.activations().n_tokens, characters])


@dataclass(frozen=True)
class Router:
    """How a router is fitted, and whose states it reads."""

    fit: Callable[[Fitting], np.ndarray]
    reads: Callable[[Study], Sequence[str]] = lambda study: ()


def _main(study: Study) -> list[str]:
    return [study.parameters.encoder]


def _embedding(study: Study) -> list[str]:
    embedding = study.parameters.embedding
    return [] if embedding == "lsa" else [embedding]


ROUTERS = {
    PRIMARY: Router(lambda it: it.trunk(), _main),
    PAIRED: Router(lambda it: it.trunk(), lambda study: study.trained_encoders),
    UNTRAINED: Router(lambda it: it.trunk(), lambda study: [study.parameters.untrained]),
    SHUFFLED: Router(lambda it: it.trunk(shuffle=True), _main),
    LOGISTIC: Router(
        lambda it: it.tuned(
            it.distinct_features(), [TargetLogistic(C=C) for C in (0.0003, 0.001, 0.01, 0.1)]
        ),
        _main,
    ),
    TFIDF: Router(
        lambda it: it.tuned(
            it.study.labels.question, [TfidfLogistic(C=C) for C in (0.1, 0.3, 1, 3, 10)]
        )
    ),
    NEIGHBOURS: Router(
        lambda it: it.tuned(it.embedding(), [NearestNeighbours(k) for k in (5, 10, 20, 50, 100)]),
        _embedding,
    ),
    CLUSTERS: Router(
        lambda it: it.tuned(
            it.embedding(),
            [Clusters(n, random_state=it.study.parameters.seed) for n in (8, 16, 32, 64)],
        ),
        _embedding,
    ),
    BENCHMARK: Router(lambda it: it.tuned(it.study.labels.benchmark, [BenchmarkAware()])),
    LENGTH: Router(lambda it: it.tuned(it.lengths(), [LengthOnly()])),
    ACCURACY: Router(lambda it: it.tuned(it.lengths(), [TrainingAccuracy()])),
}


def router_names(study: Study) -> list[str]:
    """Return the routers that a study allows: some need a control, or several encoders."""
    left_out = set()
    if not study.parameters.untrained:
        left_out.add(UNTRAINED)
    if len(study.trained_encoders) < 2:
        left_out.add(PAIRED)
    return [name for name in ROUTERS if name not in left_out]


def predictions(
    study: Study, router: str, encoders: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Return a router's P(correct) in each fold.

    Parameters
    ----------
    study : Study
        Whose folds.
    router : str
        A key of `ROUTERS`.
    encoders : sequence of str, optional
        Whose states it reads, instead of the router's own choice.

    Returns
    -------
    list of ndarray, each of shape (N, K)
        NaN on that fold's training rows, so that nobody can report them.
    """
    return [load_file(path / "p.safetensors")["p"] for path in _fitted(study, router, encoders)]


def ensembles(study: Study, router: str = PRIMARY) -> list[SharedTrunkEnsemble]:
    """Return the trained ensemble of a SharedTrunkNet router in each fold."""
    return [SharedTrunkEnsemble.load(path / ENSEMBLE) for path in _fitted(study, router)]


def _fitted(study: Study, router: str, encoders: Sequence[str] | None = None) -> list[Path]:
    p = study.parameters
    encoders = list(ROUTERS[router].reads(study) if encoders is None else encoders)
    states = {encoder: study.states_key(encoder) for encoder in [*encoders, p.encoder]}
    settings = [p.dimensions, p.criterion, p.inner_folds, p.n_seeds, p.keep, p.embedding]
    key = study.key(*settings) | {"router": router, "reads": encoders, "states": states}

    def build(fold: int, directory: Path) -> None:
        fitted = ROUTERS[router].fit(Fitting(study, fold, encoders, directory))
        p_correct = np.array(fitted, dtype=np.float64)
        p_correct[study.splits[fold].train] = np.nan
        save_file({"p": np.ascontiguousarray(p_correct)}, directory / "p.safetensors")

    folds = track(range(len(study.splits)), f"Fitting {router}")
    return [study.store.get("router", key | {"fold": f}, lambda d, f=f: build(f, d)) for f in folds]
