"""Every router compared: fitted on a split's training rows, tuned on its validation rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import ParameterGrid

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
from prefill_router.recipe.calibration import fit_calibration
from prefill_router.recipe.heads import STRENGTHS, score
from prefill_router.trunk import SharedTrunkEnsemble

PRIMARY = "SharedTrunkNet"
UNTRAINED = "SharedTrunkNet, untrained encoder"
SHUFFLED = "SharedTrunkNet, shuffled labels"
RANDOM_FEATURES = "SharedTrunkNet, random features"
LOGISTIC = "logistic per target, same features"
RIDGE = "ridge, all layers"
AUTO = "head chosen on validation"
HEADS = {"trunk": PRIMARY, "logistic": LOGISTIC, "ridge": RIDGE}
"""The router of each head that `AUTO` chooses among, as `Router.fit(head="auto")` does."""
OWN = "logistic per target, own features"
TFIDF = "TF-IDF + logistic"
CLUSTERS = "k-means clusters, embedding"
FINE_TUNED = "fine-tuned text classifier"
BENCHMARK = "benchmark-aware"
LENGTH = "length only"
ACCURACY = "training accuracy"
CONTROLS = (UNTRAINED, SHUFFLED, RANDOM_FEATURES)
TREE_COLUMNS = 64
"""Leading components of a layer that trees read: their time grows with every column."""
CPU_EPOCH = 2e12
"""Operations: about a minute on one core; a study's fine-tuning has up to 36 epochs a fold."""


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
        Whether it takes so long that a study has to ask for it.
    """

    name: str
    fit: Callable[[FoldFit], np.ndarray]
    reads: Callable[[Study], Sequence[str] | None] = lambda study: [study.parameters.encoder]
    slow: bool = False


def tuned(
    name: str, model: type[BaseEstimator], inputs: Callable, grid: dict[str, Any], **spec: Any
) -> RouterSpec:
    """Return the router that is the best of a model's settings on validation rows."""

    def fit(it: FoldFit) -> np.ndarray:
        seeded = "random_state" in signature(model).parameters
        settings = ParameterGrid(grid | ({"random_state": [it.seed]} if seeded else {}))
        return it.tuned(inputs(it), [model(**each) for each in settings])

    return RouterSpec(name, fit, **spec)


def _best_head(it: FoldFit) -> np.ndarray:
    """P(correct) by the head with the least pairwise Brier score on validation rows."""
    found = [predictions(it.study, name, calibrated=False)[it.fold] for name in HEADS.values()]
    v = it.split.validation
    return min(found, key=lambda p: score(p[v], it.labels.correct[v]))


def fine_tunable(study: Study) -> list[str] | None:
    """Return the main encoder, if an epoch of its fine-tuning takes at most `CPU_EPOCH`.

    Training takes six operations a token and parameter; a block of width D has about 12 D^2
    parameters. The same on every device, for routers that are compared are hypotheses.
    """
    states = study.activations()
    parameters = 12 * max(states.layers) * states.width**2
    affordable = 6 * parameters * states.n_tokens.sum() <= CPU_EPOCH
    return [study.parameters.encoder] if affordable else None


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


def _mlp(it: FoldFit) -> np.ndarray:
    common = {"random_state": it.seed, "device": it.study.training_device}
    networks = [
        SharedTrunkEnsemble(1, 1, hidden=hidden, dropout=(0.3,) * len(hidden), **common)
        for hidden in ((8,), (32,), (128,), (256, 128))
    ]
    return it.tuned(it.standardised_embedding(), networks)


def _embedding(study: Study) -> list[str]:
    embedding = study.parameters.embedding
    return [] if embedding == "lsa" else [embedding]


def _trained(study: Study) -> list[str] | None:
    return study.trained_encoders if len(study.trained_encoders) > 1 else None


def _untrained(study: Study) -> list[str] | None:
    return [study.parameters.untrained] if study.parameters.untrained else None


def _texts(it: FoldFit) -> np.ndarray:
    return it.labels.question


EMBEDDED = {"inputs": FoldFit.embedding, "reads": _embedding}
FACTOR_GRID = {"n_factors": (2, 8), "C": (0.0003, 0.001, 0.003, 0.01, 0.1)}
ABILITY_GRID = {"n_factors": (1, 2, 4), "C": (0.01, 0.03, 0.1, 0.3)}
TREE_GRID = {"n_trees": (100, 300), "max_leaf_nodes": (4, 16)}

SPECS = (
    RouterSpec(PRIMARY, FoldFit.recipe),
    RouterSpec("SharedTrunkNet, best encoder per target", FoldFit.recipe, _trained),
    RouterSpec(UNTRAINED, FoldFit.recipe, _untrained),
    RouterSpec(SHUFFLED, lambda it: it.recipe(shuffle=True)),
    RouterSpec(RANDOM_FEATURES, lambda it: it.trunk(it.random_features()), slow=True),
    RouterSpec(LOGISTIC, lambda it: it.recipe("logistic")),
    RouterSpec(RIDGE, lambda it: it.recipe("ridge")),
    RouterSpec(AUTO, _best_head),
    RouterSpec(
        OWN,
        lambda it: it.tuned_by_target(
            it.reduced(it.choices), [TargetLogistic(C) for C in STRENGTHS]
        ),
    ),
    tuned(
        "boosted trees per target, same features",
        TargetTrees,
        lambda it: it.distinct_features(TREE_COLUMNS),
        TREE_GRID,
        slow=True,
    ),
    tuned(TFIDF, TfidfLogistic, _texts, {"C": (0.1, 0.3, 1, 3, 10)}),
    tuned(
        "nearest neighbours, embedding",
        NearestNeighbours,
        grid={"k": (5, 10, 20, 50, 100)},
        **EMBEDDED,
    ),
    tuned(CLUSTERS, Clusters, grid={"n_clusters": (8, 16, 32, 64)}, **EMBEDDED),
    tuned(
        "matrix factorisation, embedding",
        MatrixFactorisation,
        grid=FACTOR_GRID,
        **EMBEDDED,
    ),
    RouterSpec("MLP, embedding", _mlp, _embedding, slow=True),
    tuned("item response (2PL), embedding", ItemResponse, grid=ABILITY_GRID, slow=True, **EMBEDDED),
    RouterSpec(FINE_TUNED, _fine_tuned, fine_tunable, slow=True),
    tuned(BENCHMARK, BenchmarkAware, lambda it: it.labels.benchmark, {}),
    tuned(LENGTH, LengthOnly, FoldFit.lengths, {}),
    tuned(ACCURACY, TrainingAccuracy, FoldFit.lengths, {}),
)
ROUTERS = {spec.name: spec for spec in SPECS}


def router_names(study: Study) -> list[str]:
    """Return the routers that a study allows, the slow ones if it asks for them."""
    slow = study.parameters.slow_routers
    return [spec.name for spec in SPECS if spec.reads(study) is not None and slow >= spec.slow]


def fit_in_fold(
    study: Study, spec: RouterSpec, encoders: Sequence[str], fold: int
) -> dict[str, np.ndarray]:
    """Fit a router on a fold's training rows, and predict all rows; see `fitted`."""
    it = FoldFit(study, fold, encoders)
    raw = np.array(spec.fit(it), dtype=np.float64)
    found = {"raw": raw, "p": calibrate(study, fold, raw)}
    for values in found.values():
        values[it.split.train] = np.nan  # so that nobody can report them
    return found | it.kept


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
        training rows; and `FoldFit.kept`.
    """
    spec, p = ROUTERS[router] if isinstance(router, str) else router, study.parameters
    encoders = list(spec.reads(study) if encoders is None else encoders)
    settings = [p.dimensions, p.criterion, p.inner_folds, p.n_seeds, p.keep, p.embedding]

    fit = partial(fit_in_fold, study, spec, encoders)
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


def calibrate(study: Study, fold: int, p: np.ndarray) -> np.ndarray:
    """Return P(correct), (N, K), calibrated on a fold's validation rows as the recipe does it."""
    labels, v = study.labels, study.splits[fold].validation
    seed = study.parameters.seed
    return fit_calibration(p[v], labels.correct[v], labels.group[v], seed=seed).apply(p)


def training_losses(study: Study, fold: int = 0) -> tuple[list, list, list[int]]:
    """Return the losses per epoch of the recipe's networks in a fold, and which were kept.

    Returns
    -------
    train, validation : lists of ndarray
        On rows that train and rows that stop the network.
    kept : list of int
        Numbers of the networks averaged, best first.
    """
    found = fitted(study, PRIMARY)[fold]
    train, validation = ([x[~np.isnan(x)] for x in found[k]] for k in ("train", "validation"))
    return train, validation, found["chosen"].tolist()


def network_predictions(study: Study) -> np.ndarray:
    """Return P(correct) of the test queries by each SharedTrunkNet kept, best first, (keep, n, K).

    Not calibrated. They differ in their seeds alone, for deviations between seeds. The kept
    ones have the lowest validation losses; all that were trained spread somewhat wider.
    """
    by_fold = [found["networks"] for found in fitted(study, PRIMARY)]
    return np.moveaxis(np.stack(by_fold)[study.test_folds, study.test_rows], 1, 0)


def configurations(study: Study, router: str | RouterSpec) -> int:
    """Return how many configurations of a router's head were compared, in all folds; at least 1."""
    return sum(max(1, int(found["tried"].sum())) for found in fitted(study, router))
