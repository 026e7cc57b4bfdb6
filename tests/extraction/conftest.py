import shutil

import pytest
import tiny_models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directory of a tiny model."""
    return tiny_models.save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of `saved` to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")
