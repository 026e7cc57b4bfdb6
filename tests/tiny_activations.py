"""Activations on disk of states that a test chooses, without any model."""

from pathlib import Path

import numpy as np

from prefill_router.extraction.activations import finish
from prefill_router.extraction.layout import Layout
from prefill_router.extraction.plan import make_plan
from prefill_router.extraction.shards import write_shard

LAYERS, POOLINGS = [0, 2, 5], ["last", "mean"]
N_TOKENS = np.array([3, 9, 4, 1, 5, 9, 2])


def states():
    return np.random.default_rng(0).normal(size=(3, 2, 7, 4)).astype(np.float32)


def layout(width=4, key=None):
    """Return a plan of three shards, their queries out of order."""
    plan = make_plan(N_TOKENS, token_budget=12, rows_per_shard=3)
    description = {"key": key or {}, "layers": LAYERS, "poolings": POOLINGS, "width": width}
    digests = np.arange(7 * 16, dtype=np.uint8).reshape(7, 16)
    return Layout(description, plan, np.minimum(N_TOKENS, 8), N_TOKENS, digests)


def write(directory: Path, states, storage_dtype="float32"):
    directory.mkdir(parents=True, exist_ok=True)
    made = layout()
    made.save(directory)
    for shard in range(len(made.plan.shard_ends)):
        rows = made.plan.shard(shard)
        tensors = {key: states[i, j, rows] for key, (i, j) in made.places.items()}
        write_shard(made.shard_path(directory, shard), made.owner, tensors, storage_dtype)
    finish(directory, made)
    return directory
