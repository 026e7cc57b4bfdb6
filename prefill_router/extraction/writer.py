"""From the states of batches to shards on disk, in the order of the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from prefill_router.extraction.layout import Layout
from prefill_router.extraction.reuse import Known
from prefill_router.extraction.shards import tensor_key, write_shard


class ShardWriter:
    """Gathers the pooled states of batches, shard by shard, and writes full shards.

    Parameters
    ----------
    directory : pathlib.Path
    layout : Layout
    layers : list of int
        Those that batches bring; all others are taken from `known`.
    known : Known, optional
        States that were extracted before.
    """

    def __init__(self, directory: Path, layout: Layout, layers: list[int], known: Known | None):
        self.directory = directory
        self.layout = layout
        self.layers = layers
        self.known = known
        self._gathered: list[np.ndarray] = []

    def add(self, shard: int, pooled: Tensor) -> None:
        """Take a batch's states (n_layers, n_poolings, B, D); the last batch writes the shard."""
        self._gathered.append(pooled.cpu().numpy())
        if sum(states.shape[2] for states in self._gathered) == len(self.layout.plan.shard(shard)):
            self.write(shard)

    def write(self, shard: int) -> None:
        """Write a shard of all that was gathered and, for other layers, was known."""
        description, rows = self.layout.description, self.layout.plan.shard(shard)
        gathered, self._gathered = self._gathered, []
        tensors = {}
        for layer in description["layers"]:
            for j, pooling in enumerate(description["poolings"]):
                if layer in self.layers:
                    i = self.layers.index(layer)
                    states = np.concatenate([states[i, j] for states in gathered])
                else:
                    states = self.known.take(layer, pooling, rows)
                tensors[tensor_key(layer, pooling)] = states
        path = self.layout.shard_path(self.directory, shard)
        write_shard(path, self.layout.owner, tensors, description["key"]["storage_dtype"])
