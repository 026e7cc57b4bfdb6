"""A population that several test modules evaluate."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def world():
    """Targets whose chance of being right is known: the true p, a noisy p, and outcomes."""
    rng = np.random.default_rng(0)
    true = rng.beta(1.2, 0.9, size=(600, 3))
    correct = (rng.random((600, 3)) < true).astype(float)
    correct[::50, 1] = np.nan
    noisy = np.clip(true + rng.normal(0, 0.5, true.shape), 0, 1)
    return true, noisy, correct
