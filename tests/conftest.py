"""Studies that many test modules look at, each made and fitted once."""

import numpy as np
import pytest
import tiny_routers
import tiny_studies
from tiny_studies import TARGETS, label_table

from prefill_router.experiments.study import ARTIFACTS


@pytest.fixture(scope="session", autouse=True)
def own_artifacts():
    """Let every study keep its artifacts in its own run directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ARTIFACTS, raising=False)
        yield


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Three learnable targets, two outer folds."""
    return tiny_studies.study(tmp_path_factory.mktemp("study"), outer_folds=2)


@pytest.fixture(scope="session")
def with_constant(tmp_path_factory):
    """One target more, `perfect`, is always right: no AUC, no J, nothing to learn."""
    directory = tmp_path_factory.mktemp("constant")
    return tiny_studies.study(directory, label_table(targets=TARGETS), outer_folds=2)


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """A router of three targets, and the labels that it was fitted to."""
    return tiny_routers.fit(tmp_path_factory.mktemp("router"))


@pytest.fixture
def saved(fitted, tmp_path):
    """A directory with that router, for a test to spoil."""
    return fitted[0].save_pretrained(tmp_path / "saved")


@pytest.fixture
def rng():
    """Random numbers, the same for every test."""
    return np.random.default_rng(0)
