"""Every router compared: fitted on a split's training rows, tuned on its validation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import ParameterGrid
from sklearn.preprocessing import StandardScaler

from prefill_router.baselines import (
    BenchmarkAware,
    Clusters,
    NearestNeighbours,
    TrainingAccuracy,
)
from prefill_router.baselines.classifiers import (
    LengthOnly,
    TargetLogistic,
    TargetTrees,
    TfidfLogistic,
)
from prefill_router.baselines.latent import ItemResponse, MatrixFactorisation
from prefill_router.baselines.text_classifier import TextClassifier
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.study import Study
from prefill_router.progress import track
from prefill_router.recipe.calibration import cross_fit, fit_calibration
from prefill_router.recipe.heads import STRENGTHS, score, train_networks
from prefill_router.trunk import SharedTrunkEnsemble

PRIMARY = "SharedTrunkNet"
UNTRAINED = "SharedTrunkNet, untrained encoder"
SHUFFLED = "SharedTrunkNet, shuffled labels"
RANDOM_FEATURES = "SharedTrunkNet, random features"
BEST_ENCODER = "SharedTrunkNet, best encoder per target"
LOGISTIC = "logistic per target, same features"
RIDGE = "ridge, all layers"
AUTO = "head chosen on validation"
HEADS = {"trunk": PRIMARY, "logistic": LOGISTIC, "ridge": RIDGE}
"""The router of each head that `AUTO` chooses among, as `Router.fit(head="auto")` does."""
OWN = "logistic per target, own features"
TFIDF = "TF-IDF + logistic"
CLUSTERS = "k-means clusters, embedding"
NEIGHBOURS = "nearest neighbours, embedding"
FACTORS = "matrix factorisation, embedding"
MLP = "MLP, embedding"
SEMANTIC = (TFIDF, NEIGHBOURS, CLUSTERS, FACTORS, MLP)
"""Routers that read what a query says, of which chapter 9 takes the best on validation."""
FINE_TUNED = "fine-tuned text classifier"
BENCHMARK = "benchmark-aware"
LENGTH = "length only"
ACCURACY = "training accuracy"
CONTROLS = (UNTRAINED, SHUFFLED, RANDOM_FEATURES)
TREE_COLUMNS = 64
"""Leading components of a layer that trees read: their time grows with every column."""
CPU_EPOCH = 2e12
"""Operations: about a minute on one core; fine-tuning has up to 36 epochs a fold."""

# -- what routers read: encoders, or None where a study lacks what they need ----------------------


def _main(study: Study) -> list[str]:
    return [study.parameters.encoder]


def _trained(study: Study) -> list[str] | None:
    return study.trained_encoders if len(study.trained_encoders) > 1 else None


def _untrained(study: Study) -> list[str] | None:
    return [study.parameters.untrained] if study.parameters.untrained else None


def _embedding(study: Study) -> list[str]:
    embedding = study.parameters.embedding
    return [] if embedding == "lsa" else [embedding]


def fine_tunable(study: Study) -> list[str] | None:
    """Return the main encoder, if an epoch of its fine-tuning takes at most `CPU_EPOCH`.

    Training takes six operations a token and parameter; a block of width D has about 12 D^2
    parameters. The same on every device, for routers that are compared are hypotheses.
    """
    states = study.activations()
    parameters = 12 * max(states.layers) * states.width**2
    affordable = 6 * parameters * states.n_tokens.sum() <= CPU_EPOCH
    return [study.parameters.encoder] if affordable else None


# -- how they are fitted ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RouterSpec:
    """How a router is fitted.

    Attributes
    ----------
    name : str
    fit : callable
        From a fold to P(correct) of all rows, (N, K), not calibrated.
    reads : callable
        From a study to the encoders whose states are read, or to None where it does not have what
        the router needs, or cannot afford it.
    slow : bool
        Whether it is fitted only where `Parameters.slow_routers` asks for it.
    """

    name: str
    fit: Callable[[FoldFit], np.ndarray]
    reads: Callable[[Study], Sequence[str] | None] = _main
    slow: bool = False


def tuned(
    name: str,
    model: type[BaseEstimator],
    inputs: Callable[[FoldFit], np.ndarray],
    reads: Callable[[Study], Sequence[str] | None] = _main,
    **grid: Sequence[Any],
) -> RouterSpec:
    """Return the router that is the best of a model's settings on validation rows."""

    def fit(it: FoldFit) -> np.ndarray:
        seeded = "random_state" in signature(model).parameters
        settings = ParameterGrid(grid | ({"random_state": [it.seed]} if seeded else {}))
        return it.tuned(inputs(it), [model(**each) for each in settings])

    return RouterSpec(name, fit, reads)


def _best_head(it: FoldFit) -> np.ndarray:
    """P(correct) by the head with the least pairwise Brier score on validation rows."""
    heads = {name: predictions(it.study, name, calibrated=False) for name in HEADS.values()}
    return heads[least_error(it.study, heads, it.fold)][it.fold]


def _own_features(it: FoldFit) -> np.ndarray:
    return it.tuned_by_target(it.reduced(it.choices), [TargetLogistic(C) for C in STRENGTHS])


def _tree_features(it: FoldFit) -> np.ndarray:
    return it.distinct([replace(c, dimension=min(c.dimension, TREE_COLUMNS)) for c in it.choices])


def _random_features(it: FoldFit) -> np.ndarray:
    x = np.random.default_rng(it.seed).normal(size=it.features().shape)
    recipe, labels = it.study.recipe(), it.labels
    return train_networks(recipe, x, labels.correct, labels.group, it.split.train).predict_proba(x)


def _mlp(it: FoldFit) -> np.ndarray:
    x = it.embedding()
    x = StandardScaler().fit(x[it.split.train]).transform(x)
    about = {"random_state": it.seed, "device": it.study.training_device}
    widths = ((8,), (32,), (128,), (256, 128))
    return it.tuned(
        x,
        [SharedTrunkEnsemble(1, 1, hidden=w, dropout=(0.3,) * len(w), **about) for w in widths],
    )


def _texts(it: FoldFit) -> np.ndarray:
    return it.labels.question


def _fine_tuned(it: FoldFit) -> np.ndarray:
    p = it.study.parameters
    classifiers = [
        TextClassifier(
            it.study.source(p.encoder),
            learning_rate=rate,
            max_tokens=p.max_tokens or None,
            truncation=p.truncation,
            random_state=p.seed,
            device=it.study.training_device,
        )
        for rate in (1e-4, 3e-4, 1e-3)
    ]
    return it.tuned(_texts(it), classifiers)


EMBEDDED = FoldFit.embedding, _embedding
SPECS = (
    RouterSpec(PRIMARY, FoldFit.recipe),
    RouterSpec(UNTRAINED, FoldFit.recipe, _untrained),
    RouterSpec(SHUFFLED, lambda it: it.recipe(shuffle=True)),
    RouterSpec(RANDOM_FEATURES, _random_features, slow=True),
    RouterSpec(BEST_ENCODER, FoldFit.recipe, _trained, slow=True),
    RouterSpec(LOGISTIC, lambda it: it.recipe("logistic")),
    RouterSpec(RIDGE, lambda it: it.recipe("ridge")),
    RouterSpec(AUTO, _best_head),
    RouterSpec(OWN, _own_features),
    tuned("boosted trees per target", TargetTrees, _tree_features, max_leaf_nodes=(4, 16)),
    tuned(TFIDF, TfidfLogistic, _texts, C=(0.1, 0.3, 1, 3, 10)),
    tuned(NEIGHBOURS, NearestNeighbours, *EMBEDDED, k=(5, 10, 20, 50, 100)),
    tuned(CLUSTERS, Clusters, *EMBEDDED, n_clusters=(8, 16, 32, 64)),
    tuned(
        FACTORS, MatrixFactorisation, *EMBEDDED,
        n_factors=(2, 8), C=(0.0003, 0.001, 0.003, 0.01, 0.1),
    ),
    tuned("item response, embedding", ItemResponse, *EMBEDDED, C=(0.03, 0.1, 0.3)),
    RouterSpec(MLP, _mlp, _embedding, slow=True),
    RouterSpec(FINE_TUNED, _fine_tuned, fine_tunable, slow=True),
    tuned(BENCHMARK, BenchmarkAware, lambda it: it.labels.benchmark),
    tuned(LENGTH, LengthOnly, FoldFit.lengths),
    tuned(ACCURACY, TrainingAccuracy, FoldFit.lengths),
)  # fmt: skip
ROUTERS = {spec.name: spec for spec in SPECS}


def router_names(study: Study) -> list[str]:
    """Return the routers that a study allows, the slow ones if it asks for them."""
    slow = study.parameters.slow_routers
    return [spec.name for spec in SPECS if spec.reads(study) is not None and slow >= spec.slow]


# -- P(correct), fitted once ---------------------------------------------------------------------


def fitted(
    study: Study, router: str | RouterSpec, encoders: Sequence[str] | None = None
) -> list[dict[str, np.ndarray]]:
    """Fit a router in each fold, once.

    Parameters
    ----------
    study : Study
    router : str or RouterSpec
        A name out of `ROUTERS`, or any other router.
    encoders : sequence of str, optional
        Whose states it reads, instead of the router's own choice.

    Returns
    -------
    list of dict of str to ndarray
        ``raw`` and ``p``: P(correct), (N, K), before and after calibration, NaN on the fold's
        training rows, and calibrated on each validation row without its own labels; and
        `FoldFit.kept`.
    """
    spec, p = ROUTERS[router] if isinstance(router, str) else router, study.parameters
    encoders = list(spec.reads(study) if encoders is None else encoders)

    def fit(fold: int) -> dict[str, np.ndarray]:
        it = FoldFit(study, fold, encoders)
        found = {"raw": np.array(spec.fit(it), dtype=np.float64), **it.kept}
        v = it.split.validation
        known = found["raw"][v], it.labels.correct[v], it.labels.group[v]
        maps = fit_calibration(*known, seed=it.seed)
        found["p"] = maps.apply(found["raw"])
        found["p"][v] = cross_fit(maps.families, *known, it.seed)
        for name in ("raw", "p"):
            found[name][it.split.train] = np.nan  # so that nobody can report them
        return found

    settings = [p.dimensions, p.criterion, p.inner_folds, p.n_seeds, p.keep, p.embedding]
    folds = track(range(len(study.splits)), f"Fitting {spec.name}")
    about = {"encoders": [*encoders, p.encoder]}
    return study.kept("router", fit, folds, spec.name, encoders, *settings, **about)


def predictions(
    study: Study,
    router: str | RouterSpec,
    encoders: Sequence[str] | None = None,
    calibrated: bool = True,
) -> list[np.ndarray]:
    """Return a router's P(correct) in each fold, (N, K), NaN on training rows; see `fitted`.

    Calibrated as the recipe does on validation rows: baselines and controls like any other router.
    """
    name = "p" if calibrated else "raw"
    return [found[name] for found in fitted(study, router, encoders)]


def least_error(study: Study, p: Mapping[str, Sequence[np.ndarray]], fold: int) -> str:
    """Return the router with the least pairwise Brier score on a fold's validation rows.

    Parameters
    ----------
    study : Study
    p : mapping of str to sequence of ndarrays of shape (N, K)
        P(correct) by each router in each fold, not calibrated: those rows calibrate, too.
    fold : int
    """
    v, Y = study.splits[fold].validation, study.labels.correct
    return min(p, key=lambda name: score(p[name][fold][v], Y[v]))
