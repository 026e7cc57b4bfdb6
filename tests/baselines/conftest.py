import numpy as np
import pytest


@pytest.fixture
def rng():
    """Random numbers, the same for every test."""
    return np.random.default_rng(0)
