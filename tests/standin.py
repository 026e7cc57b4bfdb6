"""In-memory activations of which a layer tells the answers."""

import numpy as np

from prefill_router.extraction.activations import Activations


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
    return Activations.from_arrays(states, np.full(n, 7)), Y, np.arange(n) // 2
