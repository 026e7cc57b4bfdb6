import os
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tiny_studies import PRICES, world

from prefill_router import run as chain
from prefill_router.config import Parameters
from prefill_router.errors import InputError
from prefill_router.experiments.study import ARTIFACTS, Study
from prefill_router.run import clean, run_experiment
from prefill_router.storage import STAGES, file_hash, read_json, write_json

RECORD = """\
import json, os, pathlib
print("seed", seed)
metrics = pathlib.Path("..", run_dir, "metrics")
metrics.mkdir(exist_ok=True)
row = {"metric": "NAME", "router": "", "target": "", "split": "test", "estimate": seed,
       "lower": None, "upper": None, "n": 1}
(metrics / "NAME.json").write_text(json.dumps({"version": 2, "rows": [row]}))
"""
FAIL = """\
if not pathlib.Path("..", "mended").exists():
    raise ValueError("labels are <missing>")
"""


def write_notebook(root, name, *sources):
    cell = new_code_cell(Parameters.cell(), metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), cell, *map(new_code_cell, sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of two notebooks that need no library."""
    for module in ("run", "experiments.study"):
        monkeypatch.setattr(f"prefill_router.{module}.project_root", lambda: tmp_path)
    monkeypatch.delenv(ARTIFACTS, raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path, "01_first", RECORD.replace("NAME", "01_first"))
    write_notebook(tmp_path, "02_second", RECORD.replace("NAME", "02_second"), FAIL)
    return tmp_path


@pytest.fixture
def executed(monkeypatch):
    """The names of the notebooks that were executed, in order."""
    names = []
    real = chain.papermill.execute_notebook

    def execute(notebook, *args, **kwargs):
        names.append(notebook.stem)
        return real(notebook, *args, **kwargs)

    monkeypatch.setattr(chain.papermill, "execute_notebook", execute)
    return names


@pytest.fixture
def values(root):
    given = world(root / "world")
    del given["run_dir"]
    return {**given, "seed": 7}


def test_a_chain_that_fails_goes_on_where_it_failed(root, values, executed):
    with pytest.raises(InputError) as caught:
        run_experiment(values, "mine")
    run = root / "runs" / "mine"
    out = run / "notebooks" / "02_second.ipynb"
    assert "02_second.ipynb failed: ValueError: labels are <missing>" in str(caught.value)
    assert str(out) in str(caught.value)
    assert not (run / "metrics.json").exists()

    (root / "mended").touch()
    assert run_experiment(values, "mine") == run
    assert executed == ["01_first", "02_second", "02_second"]
    assert run_experiment(values, "mine") == run
    assert executed == ["01_first", "02_second", "02_second"]

    # what the run directory holds
    assert read_json(run / "parameters.json")["seed"] == 7
    rows = read_json(run / "metrics.json")["rows"]
    names = ["01_first", "02_second"]
    wanted = [(name, name, 7) for name in names]
    assert [(row["notebook"], row["metric"], row["estimate"]) for row in rows] == wanted
    manifest = read_json(run / "manifest.json")
    assert manifest["parameters"]["seed"] == 7
    assert manifest["parameters"]["run_dir"] == "runs/mine"
    assert manifest["metrics"] == file_hash(run / "metrics.json")
    assert set(manifest["seconds"]) == {"01_first", "02_second"}
    assert all(seconds > 0 for seconds in manifest["seconds"].values())
    names = ["01_first.ipynb", "02_second.ipynb"]
    assert manifest["notebooks"] == {n: file_hash(run / "notebooks" / n) for n in names}
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["code"]["stages"] == STAGES
    assert {"torch", "transformers", "numpy"} < set(manifest["versions"])
    assert set(manifest["encoders"]) == {values[n] for n in ("encoder", "untrained")} | set(
        values["encoders"]
    )
    assert manifest["labels"] == Study(Parameters(**manifest["parameters"])).labels.fingerprint
    assert manifest["prices"]["output"]["early"] == PRICES["early"][1]
    book = nbformat.read(out, as_version=4)
    assert [cell.outputs[0].text for cell in book.cells if cell.get("outputs")] == ["seed 7\n"]

    # other parameters are another run
    with pytest.raises(InputError, match=r"other parameters \(seed\)"):
        run_experiment({**values, "seed": 8}, "mine")
    assert len(executed) == 3


def test_what_changed_runs_again_with_all_that_may_rest_on_it(root, values, monkeypatch):
    executed = []

    def execute(notebook, out, **_):
        executed.append(notebook.stem)
        out.write_bytes(notebook.read_bytes())

    def rerun(**changed):
        del executed[:]
        return run_experiment({**values, **changed}, "mine")

    monkeypatch.setattr(chain.papermill, "execute_notebook", execute)
    both = ["01_first", "02_second"]
    run = rerun()
    assert executed == both
    rerun()
    assert executed == []
    write_notebook(root, "02_second", "print(2)")
    rerun()
    assert executed == ["02_second"]
    write_notebook(root, "01_first", "print(1)")
    rerun()
    assert executed == both
    (run / "notebooks" / "01_first.ipynb").unlink()
    rerun()
    assert executed == ["01_first"]
    rerun(device="auto")  # the same study, on another device
    assert executed == both
    rerun()
    # committed expectations decide what the notebooks say
    write_json(root / "experiments" / "expectations.json", {})
    rerun()
    assert executed == both
    prices = root / "world" / "prices.csv"
    prices.write_text(prices.read_text().replace("40.0", "41.0"))
    rerun()  # other contents of the same name
    assert executed == both
    monkeypatch.setitem(STAGES, "trunk", STAGES["trunk"] + 1)
    rerun()
    assert executed == both


def test_a_notebook_whose_metrics_are_gone_runs_again(root, values, executed):
    (root / "mended").touch()
    run = run_experiment(values, "mine")
    complete = read_json(run / "metrics.json")
    recorded = run / "metrics" / "01_first.json"
    recorded.unlink()
    run_experiment(values, "mine")
    assert executed == ["01_first", "02_second", "01_first"]
    write_json(recorded, {"rows": []})
    run_experiment(values, "mine")
    assert executed[3:] == ["01_first"]
    assert read_json(run / "metrics.json") == complete


def test_a_notebook_stopped_half_way_is_not_taken_for_the_one_that_ran_before(
    root, values, monkeypatch
):
    def execute(notebook, out, **_):
        text = notebook.read_text()
        out.write_text(text)
        if "stop here" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(chain.papermill, "execute_notebook", execute)
    run = run_experiment(values, "mine")
    second = root / "notebooks" / "02_second.ipynb"
    whole, result = second.read_bytes(), run / "notebooks" / second.name
    finished = result.read_bytes()
    write_notebook(root, "02_second", "stop here")
    with pytest.raises(KeyboardInterrupt):
        run_experiment(values, "mine")
    second.write_bytes(whole)
    run_experiment(values, "mine")
    assert result.read_bytes() == finished


def test_a_run_leaves_the_same_bytes_twice(root, values):
    (root / "notebooks" / "02_second.ipynb").unlink()
    one = run_experiment({**values, "run_dir": "runs/a"}, "mine") / "notebooks" / "01_first.ipynb"
    first = one.read_bytes()
    (one.parent / "01_first.json").unlink()
    run_experiment({**values, "run_dir": "runs/a"}, "mine")
    assert one.read_bytes() == first
    nbformat.validate(nbformat.read(one, as_version=4))


def test_a_kernel_that_dies_is_reported(root, values, executed):
    write_notebook(root, "02_second", "import os", "os._exit(9)")
    with pytest.raises(InputError, match=r"02_second.ipynb: its kernel died.*n_queries"):
        run_experiment(values, "mine")
    write_notebook(root, "02_second", "print('fine')")
    run_experiment(values, "mine")
    assert executed == ["01_first", "02_second", "02_second"]


def test_notebooks_come_in_the_order_of_their_numbers(root):
    for name in ("10_last", "03_third", "draft"):
        write_notebook(root, name)
    names = [path.stem for path in chain.notebooks()]
    assert names == ["01_first", "02_second", "03_third", "10_last"]


def test_a_kernel_finds_the_package_wherever_it_starts(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    for _ in range(2):
        chain.prepare_kernels()
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(root), "elsewhere"]


def test_cleaning_takes_out_times_and_leaves_the_rest(tmp_path):
    output = nbformat.v4.new_output("stream", text="42\n")
    cell = new_code_cell(
        "6 * 7",
        execution_count=1,
        outputs=[output],
        metadata={
            "tags": ["parameters"],
            "papermill": {"duration": 3.2, "start_time": "2026-01-05T10:00:00"},
            "execution": {"iopub.execute_input": "2026-01-05T10:00:00Z"},
        },
    )
    injected = new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    book = new_notebook(
        cells=[cell, injected],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python", "version": "3.11.2"},
            "papermill": {"output_path": "/somewhere/out.ipynb", "end_time": "2026"},
        },
    )
    path = tmp_path / "a.ipynb"
    nbformat.write(book, path)
    clean(path)
    text = path.read_text()
    for trace in ("2026", "papermill", "iopub", "/somewhere", "3.11.2"):
        assert trace not in text
    again = nbformat.read(path, as_version=4)
    nbformat.validate(again)
    assert again.metadata == {"kernelspec": book.metadata["kernelspec"]}
    assert again.cells[0].source == "6 * 7"
    assert again.cells[0].outputs == [output]
    assert again.cells[0].metadata == {"tags": ["parameters"]}
    assert again.cells[1].id == "injected-parameters"
    clean(path)
    assert path.read_text() == text


def test_a_committed_notebook_is_the_executed_one_without_injected_parameters():
    result = nbformat.v4.new_output("execute_result", execution_count=7)
    injected = new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    cells = [
        new_code_cell("1", execution_count=1),
        injected,
        new_markdown_cell("text"),
        new_code_cell("2", execution_count=7, outputs=[result]),
    ]
    book = new_notebook(cells=cells)
    chain.without_injected(book)
    assert [c.source for c in book.cells] == ["1", "text", "2"]
    assert [c.execution_count for c in book.cells if c.cell_type == "code"] == [1, 2]
    assert book.cells[2].outputs[0].execution_count == 2
