"""Every test run computes anew: artifacts go to a fresh directory unless a variable names one."""

import os
import shutil
import tempfile

import pytest

from prefill_router.experiments.study import ARTIFACTS
from prefill_router.run import prepare_kernels


def pytest_configure(config: pytest.Config) -> None:
    """Name the directory before any notebook's kernel starts, and remove it at the end."""
    prepare_kernels()
    if not os.environ.get(ARTIFACTS):
        directory = tempfile.mkdtemp(prefix="prefill-router-test-")
        os.environ[ARTIFACTS] = directory
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
