import shutil
from contextlib import contextmanager

import pytest
import tiny_models

from prefill_router.extraction.shards import Folder
from prefill_router.extraction.sources import resolve


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directory of a tiny model."""
    return tiny_models.save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of `saved` to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def source(tmp_path):
    """A tiny model of its own for a test."""
    return resolve(str(tiny_models.save(tmp_path / "model")))


class Stop(Exception):
    """Stands for whatever stops a process."""


@pytest.fixture
def stopped(monkeypatch):
    """Let only so many more shards be written in a block, and expect an error."""
    plain = Folder.add

    @contextmanager
    def block(n, error=Stop, expected=Stop, match=None):
        left = iter(range(n))

        def add(*arguments):
            if next(left, None) is None:
                raise error
            plain(*arguments)

        with monkeypatch.context() as patch, pytest.raises(expected, match=match):
            patch.setattr(Folder, "add", add)
            yield

    return block


@pytest.fixture
def contents():
    """Return what a cache holds, without the files that say who is at work in it."""
    return lambda directory: {p.name: p.read_bytes() for p in directory.glob("*/[!.]*")}


@pytest.fixture
def shards():
    """Return the shards in a cache."""
    return lambda directory: sorted(directory.glob("*/shard-*"))
