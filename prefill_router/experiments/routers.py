"""Every router compared: fitted on a split's training rows, tuned on its validation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from prefill_router.experiments.fold import ENSEMBLE, FoldFit
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
    """How a router is fitted, whose states it reads, and whether only a full study has it.

    Every default study fits the other routers, within minutes; `affordable` says of which studies
    even a full one can.
    """

    fit: Callable[[FoldFit], np.ndarray]
    reads: Callable[[Study], Sequence[str]] = lambda study: ()
    full: bool = False
    affordable: Callable[[Study], bool] = lambda study: True


def _main(study: Study) -> list[str]:
    return [study.parameters.encoder]


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


def _on_embedding(candidates: Callable[[int], list], full: bool = False) -> RouterSpec:
    """Return a baseline that is tuned on the semantic embedding, of candidates with a seed."""
    return RouterSpec(
        lambda it: it.tuned(it.embedding(), candidates(it.study.parameters.seed)), _embedding, full
    )


ROUTERS = {
    PRIMARY: RouterSpec(FoldFit.recipe, _main),
    PAIRED: RouterSpec(FoldFit.recipe, lambda study: study.trained_encoders),
    UNTRAINED: RouterSpec(FoldFit.recipe, lambda study: [study.parameters.untrained]),
    SHUFFLED: RouterSpec(lambda it: it.recipe(shuffle=True), _main),
    RANDOM_FEATURES: RouterSpec(lambda it: it.trunk(it.random_features()), _main, full=True),
    LOGISTIC: RouterSpec(lambda it: it.recipe("logistic"), _main),
    OWN: RouterSpec(lambda it: it.tuned_by_target([TargetLogistic(C=C) for C in STRENGTHS]), _main),
    TREES: RouterSpec(
        lambda it: it.tuned(
            it.distinct_features(TREE_COLUMNS),
            [
                TargetTrees(n_trees, leaves, random_state=it.study.parameters.seed)
                for n_trees in (100, 300)
                for leaves in (4, 16)
            ],
        ),
        _main,
        full=True,
    ),
    TFIDF: RouterSpec(
        lambda it: it.tuned(
            it.study.labels.question, [TfidfLogistic(C=C) for C in (0.1, 0.3, 1, 3, 10)]
        )
    ),
    NEIGHBOURS: _on_embedding(lambda seed: [NearestNeighbours(k) for k in (5, 10, 20, 50, 100)]),
    CLUSTERS: _on_embedding(lambda seed: [Clusters(n, random_state=seed) for n in (8, 16, 32, 64)]),
    FACTORS: _on_embedding(
        lambda seed: [
            MatrixFactorisation(n, C, seed)
            for n in (2, 8)
            for C in (0.0003, 0.001, 0.003, 0.01, 0.1)
        ],
        full=True,
    ),
    MLP: RouterSpec(
        lambda it: it.tuned(
            it.standardised_embedding(),
            [
                SharedTrunkEnsemble(
                    n_seeds=1,
                    keep=1,
                    hidden=hidden,
                    dropout=(0.3,) * len(hidden),
                    random_state=it.study.parameters.seed,
                    device=it.study.training_device,
                )
                for hidden in ((8,), (32,), (128,), (256, 128))
            ],
            grouped=True,
        ),
        _embedding,
        full=True,
    ),
    RESPONSE: _on_embedding(
        lambda seed: [ItemResponse(n, C, seed) for n in (1, 2, 4) for C in (0.01, 0.03, 0.1, 0.3)],
        full=True,
    ),
    FINE_TUNED: RouterSpec(
        lambda it: it.tuned(
            it.study.labels.question, it.text_classifiers((1e-4, 3e-4, 1e-3)), grouped=True
        ),
        _main,
        full=True,
        affordable=can_fine_tune,
    ),
    BENCHMARK: RouterSpec(lambda it: it.tuned(it.study.labels.benchmark, [BenchmarkAware()])),
    LENGTH: RouterSpec(lambda it: it.tuned(it.lengths(), [LengthOnly()])),
    ACCURACY: RouterSpec(lambda it: it.tuned(it.lengths(), [TrainingAccuracy()])),
}


def router_names(study: Study, full: bool = False) -> list[str]:
    """Return the routers that a study allows: some need a control, or several encoders.

    `full` adds those that take too long for every default study, as far as they are affordable.
    """
    left_out = {
        name
        for name, router in ROUTERS.items()
        if router.full and not (full and router.affordable(study))
    }
    if not study.parameters.untrained:
        left_out.add(UNTRAINED)
    if len(study.trained_encoders) < 2:
        left_out.add(PAIRED)
    return [name for name in ROUTERS if name not in left_out]


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
    by_fold = []
    for fold, ensemble in enumerate(ensembles(study)):
        x = FoldFit(study, fold, [study.parameters.encoder]).features()
        by_fold.append(np.moveaxis(ensemble.predict_each(x), 0, 1))
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
    states = {encoder: study.states_key(encoder) for encoder in [*encoders, p.encoder]}
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
