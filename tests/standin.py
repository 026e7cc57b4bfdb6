"""In-memory activations with the methods of the real ones."""

import numpy as np


class StandIn:
    def __init__(self, states):
        self._states = states
        self.layers = sorted({layer for layer, _ in states})
        self.poolings = tuple(sorted({pooling for _, pooling in states}))
        self.n_queries, self.width = next(iter(states.values())).shape
        self.n_tokens = np.full(self.n_queries, 7)

    def states(self, layer, pooling):
        return self._states[layer, pooling].astype(np.float32)


def predictable(rng, n=120, width=8):
    """Return states whose layer 1, pooled by means, tells the answers; labels; and groups."""
    latent = rng.normal(size=(n, 2))
    states = {
        (0, "last"): np.full((n, width), 0.7),
        (0, "mean"): rng.normal(size=(n, width)),
        (1, "last"): rng.normal(size=(n, width)),
        (1, "mean"): latent @ rng.normal(size=(2, width)) + 0.3 * rng.normal(size=(n, width)),
    }
    Y = (latent + 0.3 * rng.normal(size=(n, 2)) > 0).astype(float)
    Y[rng.random((n, 2)) < 0.2] = np.nan
    return StandIn(states), Y, np.arange(n) // 2
