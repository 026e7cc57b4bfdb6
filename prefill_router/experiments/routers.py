"""Every router compared: fitted on a split's training rows, tuned on its validation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from prefill_router.baselines.averages import (
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
from prefill_router.experiments.fold import ENSEMBLE, NETWORKS, FoldFit
from prefill_router.experiments.study import Study
from prefill_router.progress import track
from prefill_router.recipe.calibration import fit_calibration
from prefill_router.recipe.heads import STRENGTHS
from prefill_router.storage import read_json, write_json
from prefill_router.trunk import SharedTrunkEnsemble

PRIMARY = "SharedTrunkNet"
PAIRED = "SharedTrunkNet, best encoder per target"
UNTRAINED = "SharedTrunkNet, untrained encoder"
SHUFFLED = "SharedTrunkNet, shuffled labels"
RANDOM_FEATURES = "SharedTrunkNet, random features"
LOGISTIC = "logistic per target, same features"
OWN = "logistic per target, own features"
TREES = "boosted trees per target, same features"
TFIDF = "TF-IDF + logistic"
NEIGHBOURS = "nearest neighbours, embedding"
CLUSTERS = "k-means clusters, embedding"
FACTORS = "matrix factorisation, embedding"
MLP = "MLP, embedding"
RESPONSE = "item response (2PL), embedding"
FINE_TUNED = "fine-tuned text classifier"
BENCHMARK = "benchmark-aware"
LENGTH = "length only"
ACCURACY = "training accuracy"
CONTROLS = (UNTRAINED, SHUFFLED, RANDOM_FEATURES)
TREE_COLUMNS = 64
"""Leading components of a layer that trees read: their time grows with every column."""
TRIED = "configurations.json"
CPU_EPOCH = 2e12
"""Operations: about a minute on one core; a study's fine-tuning has up to 36 epochs a fold."""


@dataclass(frozen=True)
class RouterSpec:
    """How a router is fitted.

    Attributes
    ----------
    fit : callable
        From a fold to P(correct) of all rows, (N, K), not calibrated.
    reads : callable
        From a study to the encoders whose states are read.
    full : bool
        Whether it takes too long for every default study.
    allowed : callable
        Whether a study has what it needs, and can afford it.
    """

    fit: Callable[[FoldFit], np.ndarray]
    reads: Callable[[Study], Sequence[str]] = lambda study: [study.parameters.encoder]
    full: bool = False
    allowed: Callable[[Study], bool] = lambda study: True


def tuned(
    inputs: Callable[[FoldFit], np.ndarray], candidates: Callable[[FoldFit], list], **spec: Any
) -> RouterSpec:
    """Return the router that is the best of some candidates on validation rows."""
    return RouterSpec(lambda it: it.tuned(inputs(it), candidates(it)), **spec)


def can_fine_tune(study: Study) -> bool:
    """Return whether an epoch of fine-tuning the main encoder takes at most `CPU_EPOCH`.

    Training takes six operations a token and parameter; a block of width D has about 12 D^2
    parameters. The same on every device, for routers that are compared are hypotheses.
    """
    states = study.activations()
    parameters = 12 * max(states.layers) * states.width**2
    return 6 * parameters * states.n_tokens.sum() <= CPU_EPOCH


def _embedding(study: Study) -> list[str]:
    embedding = study.parameters.embedding
    return [] if embedding == "lsa" else [embedding]


def _mlps(it: FoldFit) -> list[SharedTrunkEnsemble]:
    common = {"random_state": it.seed, "device": it.study.training_device}
    return [
        SharedTrunkEnsemble(1, 1, hidden=hidden, dropout=(0.3,) * len(hidden), **common)
        for hidden in ((8,), (32,), (128,), (256, 128))
    ]


ROUTERS = {
    PRIMARY: RouterSpec(FoldFit.recipe),
    PAIRED: RouterSpec(
        FoldFit.recipe,
        lambda study: study.trained_encoders,
        allowed=lambda study: len(study.trained_encoders) > 1,
    ),
    UNTRAINED: RouterSpec(
        FoldFit.recipe,
        lambda study: [study.parameters.untrained],
        allowed=lambda study: bool(study.parameters.untrained),
    ),
    SHUFFLED: RouterSpec(lambda it: it.recipe(shuffle=True)),
    RANDOM_FEATURES: RouterSpec(lambda it: it.trunk(it.random_features()), full=True),
    LOGISTIC: RouterSpec(lambda it: it.recipe("logistic")),
    OWN: RouterSpec(lambda it: it.tuned_by_target([TargetLogistic(C) for C in STRENGTHS])),
    TREES: tuned(
        lambda it: it.distinct_features(TREE_COLUMNS),
        lambda it: [
            TargetTrees(n, leaves, random_state=it.seed) for n in (100, 300) for leaves in (4, 16)
        ],
        full=True,
    ),
    TFIDF: tuned(FoldFit.texts, lambda it: [TfidfLogistic(C) for C in (0.1, 0.3, 1, 3, 10)]),
    NEIGHBOURS: tuned(
        FoldFit.embedding,
        lambda it: [NearestNeighbours(k) for k in (5, 10, 20, 50, 100)],
        reads=_embedding,
    ),
    CLUSTERS: tuned(
        FoldFit.embedding,
        lambda it: [Clusters(n, random_state=it.seed) for n in (8, 16, 32, 64)],
        reads=_embedding,
    ),
    FACTORS: tuned(
        FoldFit.embedding,
        lambda it: [
            MatrixFactorisation(n, C, it.seed)
            for n in (2, 8)
            for C in (0.0003, 0.001, 0.003, 0.01, 0.1)
        ],
        reads=_embedding,
        full=True,
    ),
    MLP: tuned(FoldFit.standardised_embedding, _mlps, reads=_embedding, full=True),
    RESPONSE: tuned(
        FoldFit.embedding,
        lambda it: [ItemResponse(n, C, it.seed) for n in (1, 2, 4) for C in (0.01, 0.03, 0.1, 0.3)],
        reads=_embedding,
        full=True,
    ),
    FINE_TUNED: tuned(
        FoldFit.texts,
        lambda it: it.text_classifiers((1e-4, 3e-4, 1e-3)),
        full=True,
        allowed=can_fine_tune,
    ),
    BENCHMARK: tuned(FoldFit.benchmarks, lambda it: [BenchmarkAware()]),
    LENGTH: tuned(FoldFit.lengths, lambda it: [LengthOnly()]),
    ACCURACY: tuned(FoldFit.lengths, lambda it: [TrainingAccuracy()]),
}


def router_names(study: Study, full: bool = False) -> list[str]:
    """Return the routers that a study allows; `full` adds the slow ones that it can afford."""
    return [
        name
        for name, router in ROUTERS.items()
        if (full or not router.full) and router.allowed(study)
    ]


def predictions(
    study: Study,
    router: str,
    encoders: Sequence[str] | None = None,
    among: Mapping[str, RouterSpec] = ROUTERS,
    calibrated: bool = True,
) -> list[np.ndarray]:
    """Return a router's P(correct) in each fold.

    Parameters
    ----------
    study : Study
        Whose folds.
    router : str
        A key of `among`.
    encoders : sequence of str, optional
        Whose states it reads, instead of the router's own choice.
    among : mapping of name -> RouterSpec, default `ROUTERS`
    calibrated : bool, default True
        As the recipe calibrates on validation rows: baselines and controls like any other router.

    Returns
    -------
    list of ndarray, each of shape (N, K)
        NaN on that fold's training rows, so that nobody can report them.
    """
    fitted = _fitted(study, router, among, encoders)
    return [load_file(path / "p.safetensors")["p" if calibrated else "raw"] for path in fitted]


def calibrate(study: Study, fold: int, p: np.ndarray) -> np.ndarray:
    """Return P(correct), (N, K), calibrated on a fold's validation rows as the recipe does it."""
    labels, v = study.labels, study.splits[fold].validation
    seed = study.parameters.seed
    return fit_calibration(p[v], labels.correct[v], labels.group[v], seed=seed).apply(p)


def ensembles(study: Study, router: str = PRIMARY) -> list[SharedTrunkEnsemble]:
    """Return the trained ensemble of a recipe's router in each fold."""
    return [SharedTrunkEnsemble.load(path / ENSEMBLE) for path in _fitted(study, router, ROUTERS)]


def network_predictions(study: Study) -> np.ndarray:
    """Return P(correct) of the test queries by each SharedTrunkNet kept, best first, (keep, n, K).

    Not calibrated. They differ in their seeds alone, for deviations between seeds. The kept
    ones have the lowest validation losses; all that were trained spread somewhat wider.
    """
    by_fold = [load_file(path / NETWORKS)["p"] for path in _fitted(study, PRIMARY, ROUTERS)]
    return np.moveaxis(study.over_folds(by_fold), 1, 0)


def configurations(study: Study, router: str, among: Mapping[str, RouterSpec] = ROUTERS) -> int:
    """Return how many configurations of a router's head were compared, in all folds; at least 1."""
    return sum(read_json(path / TRIED) for path in _fitted(study, router, among))


def _fitted(
    study: Study,
    router: str,
    among: Mapping[str, RouterSpec],
    encoders: Sequence[str] | None = None,
) -> list[Path]:
    p = study.parameters
    encoders = list(among[router].reads(study) if encoders is None else encoders)
    states = {encoder: study.activations(encoder).key for encoder in [*encoders, p.encoder]}
    settings = [p.dimensions, p.criterion, p.inner_folds, p.n_seeds, p.keep, p.embedding]
    key = study.key(*settings) | {"router": router, "reads": encoders, "states": states}

    def build(fold: int, directory: Path) -> None:
        it = FoldFit(study, fold, encoders, directory)
        raw = np.array(among[router].fit(it), dtype=np.float64, order="C")
        held = {"raw": raw, "p": calibrate(study, fold, raw)}
        for values in held.values():
            values[it.split.train] = np.nan
        save_file(held, directory / "p.safetensors")
        write_json(directory / TRIED, sum(it.tried) or 1)

    return [
        study.store.get(
            "router", key | {"fold": f}, lambda d, f=f: build(f, d), stage="experiments"
        )
        for f in track(range(len(study.splits)), f"Fitting {router}")
    ]
