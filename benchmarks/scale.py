"""Time and memory of choosing layers and of intervals, by number of queries and of targets.

    python benchmarks/scale.py

Synthetic states, 384 wide, of two layers with two poolings; labels that hang on them, a tenth
missing. Each line is a process of its own, so that its peak of memory is its own; what the process
held before the task is subtracted. Seconds are on the clock, with all cores. `cross_validated_auc`
tries four dimensions in five folds, `AUC` draws 500 resamples of each target's predicted
probability, `means` 10,000 of its Brier score. The AUC is checked against scikit-learn's. The
last line is one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from itertools import product

import numpy as np
from sklearn.metrics import roc_auc_score

from prefill_router.evaluation.bootstrap import Ranking, estimate
from prefill_router.evaluation.results import Quantity
from prefill_router.extraction.activations import Activations
from prefill_router.features.selection import cross_validated_auc
from prefill_router.probes import probe_layers

WIDTH, LAYERS, POOLINGS, DIMENSIONS = 384, [0, 1], ["last", "mean"], [50, 100, 200, 300]
SIZES = [(50, 2), (5000, 9), (5000, 50), (100_000, 9)]
TASKS = ("probe_layers", "cross_validated_auc", "AUC", "means")


def synthetic(n_queries: int, n_targets: int) -> tuple[Activations, np.ndarray, np.ndarray]:
    """Return activations of N queries, and probabilities and labels (N, K) that hang on them."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    held = {
        place: rng.standard_normal((n_queries, WIDTH), dtype=np.float32) * scale
        for place in product(LAYERS, POOLINGS)
    }
    logits = held[1, "mean"] @ rng.normal(size=(WIDTH, n_targets))
    p = 1 / (1 + np.exp(-2 * logits / logits.std(axis=0)))
    Y = (rng.random(p.shape) < p).astype(np.float64)
    Y[rng.random(p.shape) < 0.1] = np.nan
    return Activations.from_arrays(held), p, Y


def peak() -> float:
    """Return the most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(task: str, n_queries: int, n_targets: int) -> tuple[float, float]:
    """Return seconds, and MB of memory added, of one task."""
    states, p, Y = synthetic(n_queries, n_targets)
    rows = np.arange(n_queries)
    quantities = {tuple(Quantity(task, target=f"{k}") for k in range(n_targets)): lambda m: m["p"]}
    before, start = peak(), time.perf_counter()
    if task == "probe_layers":
        probe_layers(states, Y, rows)
    elif task == "cross_validated_auc":
        cross_validated_auc(states, Y, rows, rows, LAYERS, POOLINGS, DIMENSIONS, 5, 0)
    elif task == "AUC":
        found = estimate({"p": Ranking(p, Y)}, quantities, n_resamples=500)["estimate"][0]
        known = ~np.isnan(Y[:, 0])
        if abs(found - roc_auc_score(Y[known, 0], p[known, 0])) > 1e-9:
            raise SystemExit("The AUC is not scikit-learn's.")
    else:
        estimate({"p": (p - Y) ** 2}, quantities, n_resamples=10_000)
    return time.perf_counter() - start, peak() - before


def main() -> None:
    """Measure every task at every size, and print a table."""
    print(f"{len(LAYERS)} layers x {POOLINGS}, {WIDTH} wide")
    found: dict[str, list] = {}
    for task, (n_queries, n_targets) in product(TASKS, SIZES):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, mb = pool.apply(measure, (task, n_queries, n_targets))
        found.setdefault(task, []).append([round(seconds, 2), round(mb)])
        size = f"N {n_queries:,}, K {n_targets}"
        print(f"{task:20} {size:16} {seconds:8.2f} s {mb:6.0f} MB", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
