import subprocess
import sys
from pathlib import Path

import pytest

from prefill_router import project
from prefill_router.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def test_the_source_tree_is_found_from_anywhere(tmp_path):
    code = "from prefill_router.project import project_root; print(project_root())"
    environment = {"PYTHONPATH": str(ROOT)}
    found = subprocess.check_output(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True
    )
    assert Path(found.strip()) == ROOT


def test_an_installed_wheel_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "__file__", str(tmp_path / "prefill_router" / "project.py"))
    with pytest.raises(InputError, match="clone the repository"):
        project.project_root()
