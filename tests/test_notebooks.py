"""The committed notebooks: their parameters, and that their checks bite."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from prefill_router.config import Parameters
from prefill_router.experiments.study import ARTIFACTS
from prefill_router.project import project_root
from prefill_router.run import notebooks
from prefill_router.storage import read_json, write_json

PROBING = "03_layer_probing.ipynb"
EXTRACTION = "02_activation_extraction.ipynb"
EXPECTED = read_json(project_root() / "experiments" / "expectations.json")


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_parameters_cell_is_the_library_s(path):
    cells = nbformat.read(path, as_version=4).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert [cell.source for cell in tagged] == [Parameters.cell()]


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_numbers_are_held_to_committed_expectations(path):
    held = EXPECTED[Parameters().fingerprint][path.stem]
    last = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"][-1]
    assert last.outputs[0].text == f"all {len(held)} headline numbers are as expected\n"
    assert "nbval-ignore-output" not in last.metadata.get("tags", [])


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the project that a test may spoil."""
    ignored = shutil.ignore_patterns(".*", "runs", "_build", "book", "__pycache__", "benchmarks")
    shutil.copytree(project_root(), tmp_path / "project", ignore=ignored)
    return tmp_path / "project"


def nbval(project: Path, notebook: str, artifacts: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(project), ARTIFACTS: str(artifacts)}
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", f"notebooks/{notebook}"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} no longer holds {old!r} once"
    path.write_text(text.replace(old, new))


def test_a_wrong_separability_fails(copy, tmp_path):
    spoil(
        copy / "prefill_router" / "probes" / "measures.py",
        "distance, within = (mean[1] - mean[0]) ** 2, variance.sum(axis=0)",
        "distance, within = (mean[1] - mean[0]) ** 2, 1.1 * variance.sum(axis=0)",
    )
    result = nbval(copy, PROBING, tmp_path / "artifacts")
    assert result.returncode == 1
    assert "not as expected" in result.stdout
    assert "J / zoo/reader-l / " in result.stdout  # pytest shows the first lines only


def test_a_wrong_pooling_fails(copy, tmp_path):
    spoil(copy / "prefill_router" / "extraction" / "pooling.py", "lengths - 1]", "lengths - 2]")
    result = nbval(copy, EXTRACTION, tmp_path / "artifacts")
    assert result.returncode == 1
    assert "extraction equals the plain forward pass: False" in result.stdout


def test_a_changed_expectation_fails(copy):
    path = copy / "experiments" / "expectations.json"
    expected = read_json(path)
    row = expected[Parameters().fingerprint][Path(PROBING).stem][0]
    row["estimate"] *= 1.02
    write_json(path, expected)
    # The code is unchanged, so artifacts of this session serve again.
    result = nbval(copy, PROBING, Path(os.environ[ARTIFACTS]))
    assert result.returncode == 1
    assert "1 numbers are not as expected" in result.stdout
    assert f"{row['metric']} / {row['encoder']}" in result.stdout
