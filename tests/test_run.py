import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import tiny_models
import tiny_studies
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_config import parameters_cell
from tiny_studies import label_table, world
from transformers import AutoTokenizer

from prefill_router import run as chain
from prefill_router.config import Parameters
from prefill_router.errors import InputError
from prefill_router.experiments.study import Study
from prefill_router.run import check_inputs, clean, run_experiment
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
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
BOTH = ["01_first", "02_second"]


def write_notebook(root, name, *sources):
    defaults = new_code_cell(parameters_cell(), metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), defaults, *map(new_code_cell, sources)]
    book = new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(book, root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of two notebooks that need no library."""
    for module in ("run", "experiments.study"):
        monkeypatch.setattr(f"prefill_router.{module}.project_root", lambda: tmp_path)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setattr(chain, "AT_ONCE", 1)
    (tmp_path / "notebooks" / "appendix").mkdir(parents=True)
    write_notebook(tmp_path, "appendix/a_more", "print(seed)")
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
    return {**given, "run_dir": "runs/mine", "seed": 7}


def test_cut_prompts_are_counted(root, values, capsys):
    (root / "mended").touch()
    run_experiment(Parameters(**values, max_tokens=9, truncation="right"))
    tokenizer = AutoTokenizer.from_pretrained(values["encoder"])
    ask = [
        [{"role": "user", "content": question}]
        for question in pd.read_csv(values["labels"])["question"].unique()
    ]
    read = tokenizer.apply_chat_template(ask, add_generation_prompt=True)["input_ids"]
    cut = sum(len(ids) > 9 for ids in read)
    assert 0 < cut < len(ask)
    said = f"{cut} of 240 prompts were longer than the encoder reads, and were cut."
    assert said in capsys.readouterr().err


def test_a_chain_that_fails_goes_on_where_it_failed(root, values, executed, capsys):
    with pytest.raises(InputError) as caught:
        run_experiment(Parameters(**values))
    assert "queries, 3 targets: early (" in capsys.readouterr().err
    run = root / "runs" / "mine"
    out = run / "notebooks" / "02_second.ipynb"
    assert "02_second.ipynb failed: ValueError: labels are <missing>" in str(caught.value)
    assert str(out) in str(caught.value)
    assert not (run / "metrics.json").exists()

    (root / "mended").touch()
    for _ in range(2):
        assert run_experiment(Parameters(**values)) == run
        assert "longer than" not in capsys.readouterr().err
        assert executed == [*BOTH, "02_second"]
    recorded = run / "metrics" / "01_first.json"  # without it the notebook runs again
    complete, first = read_json(run / "metrics.json"), (out.parent / "01_first.ipynb").read_bytes()
    recorded.unlink()
    run_experiment(Parameters(**values))
    write_json(recorded, {"rows": []})
    run_experiment(Parameters(**values))
    assert executed[3:] == ["01_first", "01_first"]
    assert read_json(run / "metrics.json") == complete
    assert (out.parent / "01_first.ipynb").read_bytes() == first

    # what the run directory holds
    assert read_json(run / "parameters.json")["seed"] == 7
    rows = [(row["notebook"], row["metric"], row["estimate"]) for row in complete["rows"]]
    assert rows == [(name, name, 7) for name in BOTH]
    manifest = read_json(run / "manifest.json")
    assert {"seed": 7, "run_dir": "runs/mine"}.items() <= manifest["parameters"].items()
    assert manifest["metrics"] == file_hash(run / "metrics.json")
    assert all(manifest["seconds"][name] > 0 for name in BOTH)
    names = [f"notebooks/{name}.ipynb" for name in BOTH]
    assert manifest["notebooks"] == {n: file_hash(run / n) for n in names}
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["code"]["stages"] == STAGES
    assert {"torch", "transformers", "numpy"} < set(manifest["versions"])
    study = Study(Parameters(**manifest["parameters"]))
    assert check_inputs(study).items() <= manifest.items()
    assert manifest["labels"] == study.labels.fingerprint
    book = nbformat.read(out, as_version=4)
    nbformat.validate(book)
    assert [cell.outputs[0].text for cell in book.cells if cell.get("outputs")] == ["seed 7\n"]

    with pytest.raises(InputError, match=r"other parameters \(seed\)"):
        run_experiment(Parameters(**values | {"seed": 8}))
    write_notebook(root, "02_second", "import os", "os._exit(9)")
    with pytest.raises(InputError, match=r"02_second.ipynb failed: its kernel died.*n_queries"):
        run_experiment(Parameters(**values))


def test_a_chapter_can_run_alone(root, values, executed):
    run_experiment(Parameters(**values), chapter="01_first")
    assert executed == ["01_first"]
    with pytest.raises(InputError, match="Did you mean '01_first'"):
        run_experiment(Parameters(**values), chapter="01_frist")


def test_what_changed_runs_again_with_all_that_may_rest_on_it(root, values, monkeypatch):
    executed = []

    def execute(notebook, out, **_):
        executed.append(notebook.stem)
        out.write_bytes(notebook.read_bytes())
        if "stop here" in notebook.read_text():
            raise KeyboardInterrupt

    def rerun(**changed):
        del executed[:]
        run_experiment(Parameters(**values | changed))
        return executed

    monkeypatch.setattr(chain.papermill, "execute_notebook", execute)
    prices = root / "world" / "prices.csv"
    other = prices.read_text().replace("40.0", "41.0")
    assert rerun() == BOTH and rerun() == []
    for change, again in (
        (lambda: write_notebook(root, "02_second", "print(2)"), ["02_second"]),
        (lambda: write_notebook(root, "01_first", "print(1)"), BOTH),
        ((root / "runs/mine/notebooks/01_first.ipynb").unlink, ["01_first"]),
        (lambda: rerun(device="auto"), BOTH),  # the same study, on another device
        # committed expectations decide what the notebooks say
        (lambda: write_json(root / "experiments" / "expectations.json", {}), BOTH),
        (lambda: prices.write_text(other), BOTH),  # other contents of the same name
        (lambda: monkeypatch.setitem(STAGES, "trunk", STAGES["trunk"] + 1), BOTH),
    ):
        change()
        assert rerun() == again
    # one stopped half way is not taken for the one that ran before
    second = root / "notebooks" / "02_second.ipynb"
    whole = second.read_bytes()
    write_notebook(root, "02_second", "stop here")
    with pytest.raises(KeyboardInterrupt):
        rerun()
    second.write_bytes(whole)
    assert rerun() == ["02_second"]


def test_committed_notebooks_are_those_of_a_run_on_the_defaults(root, values, monkeypatch):
    """No cell is injected where no parameter differs, and the second run knows the first's."""
    (root / "mended").touch()
    (root / "book" / "_static").mkdir(parents=True)
    own = Parameters(**values | {"run_dir": ""})
    monkeypatch.setattr(chain, "Parameters", lambda: own)
    monkeypatch.setattr(chain, "headline", lambda _: {"headline_figure": "AAAA"})
    written = chain.refresh_notebooks()
    *books, expectations, figure = written
    assert [path.stem for path in books] == [*BOTH, "a_more"]
    assert expectations == root / "experiments" / "expectations.json"
    assert figure.read_bytes() == b"\0\0\0"
    for path in books:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
        assert cells[1].outputs[0].text in ("seed 0\n", "0\n")


def test_cleaning_takes_out_times_and_defaults_that_do_not_hold(tmp_path):
    output = nbformat.v4.new_output("stream", text="42\n")
    trace = {"papermill": {"duration": 3.2}, "execution": {"iopub.execute_input": "2026-01-05"}}
    about = {"execution_count": 1, "outputs": [output], "metadata": {"tags": ["parameters"]}}
    cell = new_code_cell("6 * 7", **about)
    cell.metadata |= trace
    injected = new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    metadata, path = {"kernelspec": KERNEL, "language_info": {"name": "python"}}, tmp_path / "a"
    nbformat.write(new_notebook(cells=[cell, injected], metadata=metadata | trace), path)
    for _ in range(2):
        clean(path)
        again = nbformat.read(path, as_version=4)
        nbformat.validate(again)
        assert again.metadata == {"kernelspec": KERNEL}
        about["metadata"] = {"tags": ["parameters", "remove-cell"]}
        assert again.cells[0] == new_code_cell("6 * 7", id=cell.id, **about)
        assert again.cells[1].id == "injected-parameters"


# -- what is checked before anything is computed -------------------------------------------------


def test_inputs_are_identified_by_what_they_hold(tmp_path):
    study = tiny_studies.study(tmp_path)
    before = check_inputs(study)
    assert check_inputs(Study(study.parameters)) == before
    assert set(before["encoders"]) == {str(tmp_path / n) for n in ("main", "other", "control")}
    tiny_models.save(tmp_path / "control", seed=9)
    prices = tmp_path / "prices.csv"
    prices.write_text(prices.read_text().replace("40.0", "41.0"))
    label_table(seed=3).to_csv(tmp_path / "labels.csv", index=False)
    after = check_inputs(Study(study.parameters))
    assert all(before[name] != after[name] for name in ("labels", "prices", "encoders"))
    same = before["encoders"].items() & after["encoders"].items()
    assert {name for name, _ in same} == {str(tmp_path / n) for n in ("main", "other")}
    embedded = check_inputs(tiny_studies.study(tmp_path / "b", embedding=str(tmp_path / "main")))
    assert str(tmp_path / "main") in embedded["encoders"]
    for places in ({"device": "spread"}, {"device": "cuda:7", "engine": "ray"}):
        assert check_inputs(tiny_studies.study(tmp_path / "c", **places))  # found when it is used


def test_what_cannot_be_used_is_found_before_any_prompt_is_read(tmp_path):
    table = label_table()
    table.loc[5, "output_tokens"] = np.nan
    tiny_studies.study(tmp_path / "no-lengths", table)
    no_price = Path(tiny_studies.study(tmp_path / "no-price").parameters.prices)
    no_price.write_text(no_price.read_text().replace("noisy", "noise"))
    for values, said in (
        ({"outer_folds": 500}, "more queries or fewer outer_folds"),
        ({"layers": [1, 99]}, r"main: layers \[1, 99\] must be one or more of 0\.\.3"),
        ({"max_tokens": 10**5}, r"(main|other): max_tokens is 100000; this model reads at most"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"prices": str(no_price)}, rf"'noisy' is unknown.* add it to {no_price}, .*'noise'"),
        (
            {"labels": str(tmp_path / "no-lengths" / "labels.csv")},
            r"neither output_tokens nor cost_usd .*'q5'",
        ),
    ):
        study = tiny_studies.study(tmp_path / "a", **values)
        with pytest.raises(InputError, match=said):
            check_inputs(study)
        assert not study.store.root.exists()
    check_inputs(tiny_studies.study(tmp_path / "b", table, prices=""))  # nobody asks for costs


def test_a_kernel_that_did_not_start_is_started_once_more(root, values, monkeypatch):
    (root / "mended").touch()
    real, n_started = chain.papermill.execute_notebook, []

    def execute(*args, **kwargs):
        n_started.append(1)
        if len(n_started) in fails:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return real(*args, **kwargs)

    monkeypatch.setattr(chain.papermill, "execute_notebook", execute)
    fails = {1, 2}
    with pytest.raises(InputError, match=r"01_first.ipynb failed: its kernel died"):
        run_experiment(Parameters(**values))
    fails = {3}
    run_experiment(Parameters(**values))
    assert len(n_started) == 5


def test_chapters_run_side_by_side_and_say_what_failed(root, values, monkeypatch, capfd):
    monkeypatch.setattr(chain, "AT_ONCE", 2)
    wait = "while not pathlib.Path('..', 'done').exists():\n    time.sleep(0.1)"
    write_notebook(root, "01_first", "import pathlib, time", wait)
    write_notebook(root, "02_second", "import pathlib", "pathlib.Path('..', 'done').touch()")
    run_experiment(Parameters(**values))
    assert "Passed unknown parameter" not in "".join(capfd.readouterr())
    write_notebook(root, "02_second", "raise ValueError('labels')")
    with pytest.raises(InputError, match=r"02_second.ipynb failed: ValueError: labels"):
        run_experiment(Parameters(**values))
