"""Time the training of SharedTrunkNet's seeds: all at once against one after the other.

    python benchmarks/trunk.py [--device cuda]

Ten networks of the published shape (256 and 128 hidden units) read 9 targets' features of 50
components each, for 4,000 queries. Both sides train the same networks on the same rows with the
same draws; that they end alike is checked in float64 over one epoch, where rounding cannot hide a
difference. Times are wall-clock seconds of five epochs without early stopping, the best of three,
both sides taking turns so that what else the machine does falls on both; of a processor, on as
many threads as torch takes by itself, the same for both. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from prefill_router.extraction.models import device_name, pick_device
from prefill_router.trunk import SharedTrunkEnsemble
from prefill_router.trunk.training import (
    SharedTrunkNet,
    grouped_split,
    train_together,
)

N_QUERIES, N_TARGETS, N_FEATURES, N_SEEDS, N_EPOCHS = 4000, 9, 450, 10, 5


def data(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and the labels that hang on them, a tenth of them missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_QUERIES, N_FEATURES))
    logits = X @ rng.normal(size=(N_FEATURES, N_TARGETS)) / np.sqrt(N_FEATURES)
    Y = (logits + rng.normal(size=logits.shape) > 0).astype(float)
    Y[rng.random(Y.shape) < 0.1] = np.nan
    return torch.from_numpy(X).to(device, dtype), torch.from_numpy(Y).to(device, dtype)


def train(seeds: list[int], X: torch.Tensor, Y: torch.Tensor, n_epochs: int) -> list:
    """Train the networks of these seeds together; with one seed, alone."""
    generators = [np.random.default_rng([0, seed]) for seed in seeds]
    networks = [SharedTrunkNet(N_FEATURES, N_TARGETS, rng=rng).to(X.dtype) for rng in generators]
    cut = grouped_split(np.arange(N_QUERIES), 0.15, np.random.default_rng(0))[:2]
    settings = SharedTrunkEnsemble(max_epochs=n_epochs, patience=n_epochs)
    train_together(networks, X, Y, [cut] * len(seeds), len(cut[0]), generators, settings)
    return networks


def one_by_one(X: torch.Tensor, Y: torch.Tensor, n_epochs: int) -> list:
    """Train every seed's network alone."""
    return [train([seed], X, Y, n_epochs)[0] for seed in range(N_SEEDS)]


def together(X: torch.Tensor, Y: torch.Tensor, n_epochs: int) -> list:
    """Train all seeds' networks at once."""
    return train(list(range(N_SEEDS)), X, Y, n_epochs)


def furthest(X: torch.Tensor, Y: torch.Tensor) -> float:
    """Largest difference of a weight between the two after one epoch."""
    pairs = zip(together(X, Y, 1), one_by_one(X, Y, 1), strict=True)
    return max(
        (ours - theirs).abs().max().item()
        for pair in pairs
        for ours, theirs in zip(*(network.parameters() for network in pair), strict=True)
    )


def seconds(task, *arguments) -> float:
    """Wall-clock time of a task, which ends with weights on the host: nothing is still queued."""
    start = time.perf_counter()
    task(*arguments)
    return time.perf_counter() - start


def main() -> None:
    """Check that both sides train the same networks, and time them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="torch device that trains, or auto")
    device = pick_device(parser.parse_args().device)
    difference = furthest(*data(torch.float64, device))
    X, Y = data(torch.float32, device)
    turns = [[seconds(side, X, Y, N_EPOCHS) for side in (one_by_one, together)] for _ in range(3)]
    alone, at_once = (min(times) for times in zip(*turns, strict=True))
    print(
        f"{N_SEEDS} seeds, {N_EPOCHS} epochs, {N_QUERIES} queries; on {device_name(device)}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"one by one {alone:8.2f} s")
    print(f"together   {at_once:8.2f} s")
    print(f"largest difference of a weight after an epoch in float64: {difference:.1e}")
    if difference > 1e-10:
        raise SystemExit("The networks differ: these times do not compare the same thing.")
    print(json.dumps({"speedup": round(alone / at_once, 2), "device": str(device)}))


if __name__ == "__main__":
    main()
