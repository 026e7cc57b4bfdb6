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
