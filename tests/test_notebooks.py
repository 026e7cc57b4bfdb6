"""The committed notebooks: their parameters, and that their checks bite."""

import inspect

import nbformat
import pytest
import tiny_studies
from test_config import parameters_cell

from prefill_router.config import Parameters, project_root
from prefill_router.experiments.expectations import EXPECTED, accept
from prefill_router.extraction import pooling
from prefill_router.probes import separability
from prefill_router.run import notebooks
from prefill_router.storage import read_json, write_json


@pytest.fixture(params=notebooks(), ids=lambda path: path.stem)
def path(request):
    return request.param


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_parameters_cell_is_the_library_s(path):
    tagged = [cell.source for cell in code_cells(path) if "parameters" in tags(cell)]
    assert tagged == [parameters_cell()]


def test_numbers_are_held_to_committed_expectations(path):
    held = read_json(project_root() / EXPECTED)[Parameters().fingerprint][path.stem]
    last = code_cells(path)[-1]
    assert last.outputs[0].text == f"all {len(held)} headline numbers are as expected\n"
    assert "nbval-ignore-output" not in tags(last)


def run_cells(number, parameters, skip=()):
    """Execute a notebook's cells on a small study, those with a tag of `skip` left out."""
    namespace = {}
    for cell in code_cells(notebooks()[number - 1]):
        if not {*skip} & {*tags(cell)}:
            exec(cell.source, namespace)
        if "parameters" in tags(cell):
            namespace |= parameters
        if "extraction equals" in cell.source:
            break
    return namespace["study"]


@pytest.fixture
def parameters(tmp_path, monkeypatch):
    """What a small study is made from, whose expectations go to a project of its own."""
    monkeypatch.setattr("prefill_router.experiments.study.project_root", lambda: tmp_path)
    return tiny_studies.world(tmp_path / "world")


def spoil(monkeypatch, function, old, new):
    """Change one line of a function, for all that call it."""
    source, names = inspect.getsource(function), dict(vars(inspect.getmodule(function)))
    assert source.count(old) == 1, f"{function.__name__} no longer holds {old!r} once"
    exec(source.replace(old, new), names)
    monkeypatch.setattr(function, "__code__", names[function.__name__].__code__)


def test_a_wrong_separability_and_a_changed_expectation_fail(
    parameters, tmp_path, monkeypatch, capsys
):
    def verdict(run):
        study = run_cells(3, parameters | {"run_dir": str(tmp_path / run)}, ["hide-input",
                          "nbval-ignore-output"])  # fmt: skip
        return study, capsys.readouterr().out

    path = accept(verdict("first")[0])
    assert "headline numbers are as expected\n" in verdict("first")[1]
    expected = read_json(path)
    expected[next(iter(expected))]["03_layer_probing"][0]["estimate"] *= 1.02
    write_json(tmp_path / EXPECTED, expected)
    assert verdict("first")[1].startswith("1 numbers are not as expected:\nJ / ")
    accept(verdict("first")[0])
    spoil(monkeypatch, separability, "variance.sum(axis=0)\n",
          "1.1 * variance.sum(axis=0)\n")  # fmt: skip
    assert "numbers are not as expected:\nJ / " in verdict("second")[1]


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_wrong_pooling_fails(parameters, monkeypatch, capsys, spoiled):
    if spoiled:
        spoil(monkeypatch, pooling.pool_last, "lengths - 1]", "lengths - 2]")
    run_cells(2, parameters)
    assert f"extraction equals the plain forward pass: {not spoiled}" in capsys.readouterr().out
