"""Studies that several test modules look at, each made once."""

import pytest
import tiny_studies
from tiny_studies import TARGETS, label_table

from prefill_router.study import ARTIFACTS


@pytest.fixture(scope="module")
def own_artifacts():
    """Let every study keep its artifacts in its own run directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ARTIFACTS, raising=False)
        yield


@pytest.fixture(scope="module")
def study(own_artifacts, tmp_path_factory):
    """Three learnable targets, two outer folds."""
    return tiny_studies.study(tmp_path_factory.mktemp("study"), outer_folds=2)


@pytest.fixture(scope="module")
def with_constant(own_artifacts, tmp_path_factory):
    """One target more, `perfect`, is always right: no AUC, no J, nothing to learn."""
    directory = tmp_path_factory.mktemp("constant")
    return tiny_studies.study(directory, label_table(targets=TARGETS), outer_folds=2)
