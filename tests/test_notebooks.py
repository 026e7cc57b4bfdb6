"""The committed notebooks: how they are built, their parameters, and that their checks bite."""

import ast
import inspect
import itertools
import re
from contextlib import nullcontext

import nbformat
import pytest
import tiny_studies
from test_config import parameters_cell

from prefill_router.config import Parameters, project_root
from prefill_router.experiments.expectations import EXPECTED, accept
from prefill_router.extraction import pooling
from prefill_router.probes import separability
from prefill_router.report import display
from prefill_router.run import notebooks
from prefill_router.storage import read_json, write_json

METHOD = notebooks()[:6]
"""The chapters of part I."""
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
UNCHECKED = {"nbval-ignore-output", "nbval-skip"}


@pytest.fixture(params=notebooks(appendix=True), ids=lambda path: path.stem)
def path(request):
    return request.param


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell):
    return {*cell.metadata.get("tags", [])}


def visible(path):
    return [cell for cell in code_cells(path) if not HIDDEN & tags(cell)]


def nodes(cell, *kinds):
    return [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)]


def asserts(cell):
    """Return whether a cell compares: by `assert`, or by a function such as `assert_allclose`."""
    calls = [node.func for node in nodes(cell, ast.Call)]
    names = [getattr(call, "attr", getattr(call, "id", "")) for call in calls]
    return bool(nodes(cell, ast.Assert)) or any(name.startswith("assert_") for name in names)


def test_notebook_was_executed_in_order_without_a_trace_or_an_error(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.language == "python"  # how the book colours its code
    assert "papermill" not in notebook.metadata
    cells, checked = code_cells(path), []
    counts = [cell.execution_count for cell in cells if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    for cell in cells:
        assert not {"papermill", "execution"} & set(cell.metadata)
        assert "injected-parameters" not in tags(cell)
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            text = output.output_type == "stream" or "text/plain" in output.get("data", {})
            checked += [output] if text and not tags(cell) & UNCHECKED else []
    assert checked
    nbformat.validate(notebook)


def test_a_notebook_shows_the_parameters_that_its_reader_would_change(path):
    [cell] = [cell for cell in code_cells(path) if "parameters" in tags(cell)]
    shown = [line.partition(":")[0] for line in cell.source.splitlines()]
    assert 5 <= len(shown) <= 10
    assert cell.source == parameters_cell(*shown)
    assert "hide-input" in tags(cell)


def test_what_a_notebook_imports_is_there(path):
    for cell in code_cells(path):
        for node in nodes(cell, ast.Import, ast.ImportFrom):
            exec(ast.unparse(node), {})


def test_a_notebook_is_short_and_shows_its_work(path):
    """Limits of a chapter: what needs more of them is two."""
    assert len(visible(path)) <= 12
    shown = [output.get("data", {}) for cell in code_cells(path) for output in cell.outputs]
    assert sum("image/png" in data for data in shown) <= 4
    unfolded = [
        re.sub("<details.*?</details>", "", d.get("text/html", ""), flags=re.S) for d in shown
    ]
    assert sum(html.count("<table") for html in unfolded) <= 3
    cells = read(path).cells
    for one, next_one in itertools.pairwise(cells):
        assert not ("hide-input" in tags(one) and "hide-input" in tags(next_one)), next_one.source


def test_figures_of_a_notebook_are_numbered_captioned_and_described(path):
    """And alone in their cell: whatever else a cell shows would have the figure's name too."""
    for cell in code_cells(path):
        shown = [
            output.get("data", {})
            for output in cell.outputs
            if "scrapbook" not in output.get("metadata", {})
        ]
        if any("image/png" in data for data in shown):
            options = cell.metadata.mystnb
            assert options.image.alt and options.figure.caption and options.figure.name
            assert len(shown) == 1


def test_what_a_notebook_defines_is_short_and_compared_with_the_library(path):
    checks = [cell for cell in code_cells(path) if asserts(cell)]
    used = {n.id for cell in checks for n in nodes(cell, ast.Name) if isinstance(n.ctx, ast.Load)}
    for cell in code_cells(path):
        for node in nodes(cell, ast.FunctionDef, ast.ClassDef):
            assert node.end_lineno - node.lineno < 25, node.name
            inner = isinstance(node, ast.FunctionDef) and node.col_offset
            assert inner or node.name in used, node.name


@pytest.mark.parametrize("path", METHOD, ids=lambda path: path.stem)
def test_a_chapter_of_the_method_does_a_step_by_hand_and_compares(path):
    assert any(map(asserts, visible(path)))


def test_numbers_are_held_to_committed_expectations(path):
    """In a last cell that readers do not see."""
    held = read_json(project_root() / EXPECTED)[Parameters().fingerprint][path.stem]
    last = code_cells(path)[-1]
    assert last == read(path).cells[-1]
    assert f'check(study, "{path.stem}"' in last.source
    assert last.outputs[0].text == f"all {len(held)} headline numbers are as expected\n"
    assert tags(last) == {"remove-cell"}


def run_cells(number, parameters, skip=()):
    """Execute a notebook's cells on a small study, those with a tag of `skip` left out."""
    namespace = {}
    for cell in code_cells(notebooks()[number - 1]):
        if not {*skip} & tags(cell):
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
    assert "1 numbers are not as expected:\nJ / " in verdict("first")[1]
    spoil(monkeypatch, separability, "variance.sum(axis=0)\n",
          "1.1 * variance.sum(axis=0)\n")  # fmt: skip
    with pytest.raises(AssertionError):  # by hand it is another number
        verdict("second")


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_wrong_pooling_fails(parameters, monkeypatch, capsys, spoiled):
    if spoiled:
        spoil(monkeypatch, pooling.pool_last, "lengths - 1]", "lengths - 2]")
    with pytest.raises(AssertionError) if spoiled else nullcontext():
        run_cells(2, parameters)
    assert f"extraction equals the plain forward pass: {not spoiled}" in capsys.readouterr().out


@pytest.mark.parametrize("costs", [False, True])
def test_real_labels_of_ones_own_are_measured_and_told(parameters, tmp_path, monkeypatch, costs):
    """As `run` does; without prices there is no control either, and targets that are not asked."""
    said = []
    monkeypatch.setattr(display, "bullets", lambda *lines: said.extend(lines))
    table = tiny_studies.label_table(targets=tiny_studies.TARGETS)
    parameters = tiny_studies.world(tmp_path / "own", table) | {"run_dir": "own/mine"}
    if not costs:
        parameters |= {"prices": "", "untrained": "", "targets": ["early", "noisy"]}
    study = run_cells(9, parameters)
    told = "\n".join(said)
    assert ("No gain shown over" in told) or ("A gain over" in told)
    assert ("mine: no costs are known." in told) != costs
    assert ("with the encoder paid" in told) == costs
    assert ("the untrained one" in told) == costs
    assert "main predicts" in told  # the encoder that is read, not another
    assert not re.search("nan|inf", told)
    found = read_json(study.run_dir / "metrics" / "09_real_labels.json")["rows"]
    assert {"gap closed", "AUC", "ECE", "J"} <= {row["metric"] for row in found}
