"""Time the choice of layers: the recipe as published, exhaustive cross-validation, geometry.

    python benchmarks/selection.py [--step 6]

Synthetic states of 24 layers x 2 poolings, 1024 wide, of 5,000 queries that 9 targets answered.

- Reference, the recipe as published: for each target, pooling and one of 5 PCA dimensions a ternary
  search over layers. Each layer visited costs one StandardScaler and PCA, fitted on all rows, and a
  5-fold cross-validation of scikit-learn's LogisticRegression. One target is timed and multiplied
  by 9.
- Exhaustive: `cross_validated_auc` on every layer, pooling, dimension and target, with scaler and
  principal components fitted inside the folds.
- Geometry: J of every layer and pooling, on standardised states (`separability`) and on the first
  50 principal components (`separability`); and all probes (`probe_layers`).

Times are those on the clock, with all cores on both sides: the search gives them to its linear
algebra and then to folds, ours to layers. Of ours every sixth layer is timed, of the search one
pooling, and scaled up linearly (`--step 1` times everything). Let nothing else run. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefill_router.experiments.layers import ternary_search
from prefill_router.features.selection import cross_validated_auc
from prefill_router.probes import each_layer, probe_layers, separability
from prefill_router.probes.decomposition import decompose

N_LAYERS, POOLINGS, WIDTH, N_QUERIES, N_TARGETS = 24, ["last", "mean"], 1024, 5000, 9
N_COMPONENTS = 50
PEAK = 18  # AUC's; the search then visits 8 layers, as it does on average over all possible peaks
DIMENSIONS, N_FOLDS, SEED = [50, 100, 150, 200, 300], 5, 0


class SyntheticStates:
    """Activations whose spectrum falls like a power; what targets hang on fades away from a layer.

    States are made when they are asked for, which is not timed.
    """

    layers, poolings, width, n_queries = list(range(N_LAYERS)), POOLINGS, WIDTH, N_QUERIES

    def __init__(self):
        rng = np.random.default_rng(SEED)
        self.latent = rng.standard_normal((N_QUERIES, 400), dtype=np.float32)
        self.latent *= np.arange(1, 401, dtype=np.float32) ** -0.6
        weights = rng.normal(size=(400, N_TARGETS))
        weights[:10] = 0  # the largest directions say nothing about answers
        logits = self.latent @ weights
        logits /= logits.std(axis=0)
        p = 1 / (1 + np.exp(-2 * logits - rng.normal(size=N_TARGETS)))
        self.Y = (rng.random(p.shape) < p).astype(np.float64)

    def states(self, layer: int, pooling: str) -> np.ndarray:
        """Return float32 states of shape (N, D)."""
        rng = np.random.default_rng([SEED, layer, POOLINGS.index(pooling)])
        fading = np.exp(-(((layer - PEAK) / 8) ** 2)) * (0.7 if pooling == "last" else 1.0)
        gain = np.where(np.arange(400) < 10, 1.0, fading).astype(np.float32)
        mixing = rng.standard_normal((400, WIDTH), dtype=np.float32)
        noise = rng.standard_normal((N_QUERIES, WIDTH), dtype=np.float32)
        return (self.latent * gain) @ mixing + 0.5 * noise + 3 * mixing[0]


class Held:
    """A few places of the synthetic states, held in memory."""

    width, n_queries = WIDTH, N_QUERIES

    def __init__(self, source: SyntheticStates, layers: list[int], poolings: list[str]):
        self.layers, self.poolings = layers, poolings
        self.held = {place: source.states(*place) for place in product(layers, poolings)}

    def __len__(self) -> int:
        return N_QUERIES

    def states(self, layer: int, pooling: str) -> np.ndarray:
        """Return float32 states of shape (N, D)."""
        return self.held[layer, pooling]


def published_score(X: np.ndarray, y: np.ndarray, dimension: int) -> float:
    """AUC of one layer as the recipe scores it: scaler and PCA see the rows held out."""
    reduction = make_pipeline(StandardScaler(), PCA(dimension, random_state=SEED)).fit(X)
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=SEED)
    head = LogisticRegression(max_iter=500)
    reduced = reduction.transform(X)
    # A fold a core: with threads inside a fit, which is too small to share, it takes far longer.
    return cross_val_score(head, reduced, y, cv=folds, scoring="roc_auc", n_jobs=-1).mean()


def leak_free_score(X: np.ndarray, y: np.ndarray, dimension: int) -> float:
    """AUC of one layer with everything fitted inside the folds, by scikit-learn alone."""
    areas = []
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=SEED)
    for train, test in folds.split(X, groups=np.arange(len(X))):
        pipeline = make_pipeline(
            StandardScaler(),
            PCA(dimension, svd_solver="covariance_eigh"),
            LogisticRegression(solver="newton-cholesky", tol=1e-8),
        ).fit(X[train].astype(np.float64), y[train])
        areas.append(roc_auc_score(y[test], pipeline.decision_function(X[test])))
    return float(np.mean(areas))


def seconds(task: Callable[[], object]) -> tuple[float, object]:
    """Return the time of a task on the clock, and its result."""
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def main(step: int) -> None:
    """Time all, check our scores against scikit-learn's, and print the ratios."""
    source, rows = SyntheticStates(), np.arange(N_QUERIES)
    layers = list(range(0, N_LAYERS, step))
    states, to_all = Held(source, layers, POOLINGS), N_LAYERS / len(layers)

    published_score(source.states(0, POOLINGS[0]), source.Y[:, 0], DIMENSIONS[0])  # starts workers
    searched = POOLINGS[: 1 if step > 1 else None]
    visits = []

    def visit(layer: int, pooling: str, dimension: int) -> float:
        X = source.states(layer, pooling)
        took, score = seconds(lambda: published_score(X, source.Y[:, 0], dimension))
        visits.append(took)
        return score

    for pooling, dimension in product(searched, DIMENSIONS):
        ternary_search(partial(visit, pooling=pooling, dimension=dimension), 0, N_LAYERS - 1)
    reference = sum(visits) * len(POOLINGS) / len(searched) * N_TARGETS

    exhaustive, table = seconds(
        lambda: cross_validated_auc(
            states, source.Y, rows, rows, layers, POOLINGS, DIMENSIONS, N_FOLDS, SEED
        )
    )

    def fisher_of(layer: int, pooling: str) -> np.ndarray:
        return separability(states.states(layer, pooling), source.Y)

    def fisher_pca_of(layer: int, pooling: str) -> np.ndarray:
        X = states.states(layer, pooling)
        return separability(decompose(X, N_COMPONENTS).transform(X), source.Y, standardise=False)

    fisher, _ = seconds(lambda: each_layer(fisher_of, layers, POOLINGS, "J"))
    fisher_pca, _ = seconds(lambda: each_layer(fisher_pca_of, layers, POOLINGS, "J, reduced"))
    probes, _ = seconds(lambda: probe_layers(states, source.Y, rows))

    row = table.query("target == 0 and dimension == 100").sort_values("auc").iloc[-1]
    expected = leak_free_score(states.states(row.layer, row.pooling), source.Y[:, 0], 100)
    difference = abs(row.auc - expected)

    print(
        f"{N_LAYERS} layers x {POOLINGS} x {WIDTH} wide, {N_QUERIES} queries, {N_TARGETS} targets"
    )
    print(
        f"timed: the published search for 1 of {N_TARGETS} targets and {len(searched)} of "
        f"{len(POOLINGS)} poolings ({len(visits)} layers visited), ours on {len(layers)} of "
        f"{N_LAYERS} layers; scaled up linearly; {os.cpu_count()} cores"
    )
    sides = {
        "published search, leaking and partial": reference,
        "exhaustive, leak-free": exhaustive * to_all,
        "J, standardised states": fisher * to_all,
        f"J, {N_COMPONENTS} principal components": fisher_pca * to_all,
        "all probes": probes * to_all,
    }
    for name, value in sides.items():
        print(f"{name:44} {value:9.1f} s {reference / value:8.1f} x")
    print(f"our AUC against scikit-learn's leak-free pipeline: {difference:.1e} apart")
    if difference > 1e-4:
        raise SystemExit("The AUCs differ: these times do not compare the same thing.")
    names = ("speedup_exhaustive", "speedup_fisher", "speedup_fisher_pca")
    ratios = [reference / value for value in list(sides.values())[1:4]]
    print(json.dumps(dict(zip(names, (round(ratio, 2) for ratio in ratios), strict=True))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--step", type=int, default=6, help="time every n-th layer; 1 times all")
    main(parser.parse_args().step)
