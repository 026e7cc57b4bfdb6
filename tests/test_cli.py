import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
import tiny_models
import torch
import typer
from typer.testing import CliRunner

from prefill_router import cli, extraction
from prefill_router.config import Parameters, project_root
from prefill_router.errors import InputError
from prefill_router.extraction import extract

torch.set_num_threads(1)
COMMANDS = {
    "": {"collect", "fit", "evaluate", "route", "report", "add-target", "run", "book", "publish",
         "notebooks", "extract", "untrained", "labels", "zoo", "toolkit"},
    "zoo": {"train", "labels", "samples", "queries", "serve"},
    "toolkit": {"pool", "labels"},
}  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


def refused(*arguments) -> str:
    """Return the one sentence, on standard error, with which a command refuses its arguments."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit) and result.stdout == ""
    assert result.stderr.startswith("Error: ") and "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """What `run` passes on, instead of running it."""
    calls = []

    def record(*given):
        calls.append(given)
        return tmp_path / "runs" / "mine"

    monkeypatch.setattr("prefill_router.run.run_experiment", record)
    return calls


# -- help ----------------------------------------------------------------------------------------


def test_every_command_is_listed_and_explains_itself():
    apps = {"": cli.app, "zoo": cli.zoo_app, "toolkit": cli.toolkit_app}
    for group, app in apps.items():
        listed, names = invoke(*group.split(), "--help").stdout, COMMANDS[group]
        assert {*typer.main.get_command(app).commands} == names
        for name in names:
            result = invoke(*group.split(), name, "--help")
            assert name in listed and result.exit_code == 0
            assert f"Usage: root {group} {name}".replace("  ", " ") in result.stdout
            assert len(result.stdout.split()) > 20


def test_the_command_starts_without_loading_what_it_does_not_need():
    code = (
        "import sys; from prefill_router.cli import app; "
        "print({'torch', 'transformers', 'papermill', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# -- run -----------------------------------------------------------------------------------------


def test_run_passes_on_the_file_and_what_overrides_it(tmp_path, ran):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\nencoder: zoo/reader-s\ntargets: [a, b]\n")
    result = invoke(
        "run", path, "--appendix", "-p", "seed=4", "-p", "layers=[0, 2]", "-p", "dimensions=8, 16",
        "--parameter", "prices=", "-p", "fresh_labels=true", "-p", "run_dir=runs/a=b",
    )  # fmt: skip
    assert result.exit_code == 0
    wanted = Parameters(
        seed=4, encoder="zoo/reader-s", targets=["a", "b"], layers=[0, 2], dimensions=[8, 16],
        prices="", fresh_labels=True, run_dir="runs/a=b",
    )  # fmt: skip
    assert ran == [(wanted, True, "")]
    run_dir = tmp_path / "runs" / "mine"
    assert result.stdout.split("\n")[0].endswith(f"prefill-router book {run_dir}")
    for named, run_dir in (((), "runs/default"), ((path,), "runs/mine")):
        invoke("run", *named)
        assert ran[-1][0].run_dir == run_dir
    said = invoke("run", path, "--chapter", "02_some").stdout
    assert ran[-1][1:] == (False, "02_some") and said.endswith("notebooks/02_some.ipynb\n")


def test_run_explains_every_parameter():
    said = " ".join(invoke("run", "--help").stdout.split())
    for name, field in Parameters.model_fields.items():
        assert f"{name}: {field.description}" in said


def test_run_names_the_file_or_option_at_fault(tmp_path):
    assert "-p seed: write name=value." in refused("run", "-p", "seed")
    assert "-p labels is not plain YAML" in refused("run", "-p", "labels=!!python/name:os.sep")
    path = tmp_path / "mine.yaml"
    path.write_text("encodr: a\n")
    assert f"{path}: encodr: no such parameter" in refused("run", path)
    assert "Error: -p: n_seeds: " in refused("run", path, "-p", "n_seeds=0")
    assert str(tmp_path) in refused("run", tmp_path)


def test_run_refuses_before_it_starts_and_leaves_the_directory_free(tmp_path):
    labels, run_dir = tmp_path / "labels.csv", tmp_path / "run"
    labels.write_text("query_id,question,benchmark,a,b\n1,x,m,0,1\n2,y,m,1,0\n")
    for given, said in (
        ([f"labels={labels}", "prices=", "encoder=zoo/reader-z"], "no model 'zoo/reader-z' in"),
        (["labels=nowhere.csv"], "nowhere.csv"),
        ([f"labels={labels}"], "prices"),
    ):
        options = (x for p in (f"run_dir={run_dir}", *given) for x in ("-p", p))
        assert said in refused("run", *options)
        assert not run_dir.exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("labels <b>[red]x[/red]</b> are bad."), 2, "labels <b>[red]x[/red]</b> are"),
        (OSError(13, "Permission denied", "x.json"), 2, "'x.json'. Finished parts are kept"),
        (OSError(28, "No space left on device", "a/b.bin"), 2, "free space and run again"),
        (KeyboardInterrupt(), 130, "Stopped. Finished parts are kept; run again to go on."),
        (ZeroDivisionError(), 1, ""),  # of the program itself: not hidden
    ],
)
def test_errors_are_plain_words(monkeypatch, error, code, said):
    def fail(*_):
        raise error

    monkeypatch.setattr("prefill_router.run.run_experiment", fail)
    result = invoke("run")
    assert result.exit_code == code
    assert said in result.stderr
    assert (result.exception is error) == (code == 1)


# -- the other commands --------------------------------------------------------------------------


def test_extract_writes_what_the_library_would(tmp_path, monkeypatch):
    table, out = tmp_path / "queries.csv", tmp_path / "out"
    encoder, questions = str(tiny_models.save(tmp_path / "m")), tiny_models.questions(9)
    pd.DataFrame({"question": questions}).to_csv(table, index=False)
    arguments = [
        "extract", table, out, "-e", encoder, "--layers", "1,3", "--poolings", "mean",
        "--max-tokens", 5, "--truncation", "left", "--storage", "float16",
    ]  # fmt: skip
    said = invoke(*arguments).stdout
    wanted = {"layers": [1, 3], "poolings": ["mean"], "max_tokens": 5, "truncation": "left"}
    found = extract(encoder, questions, cache_dir=out, storage_dtype="float16", **wanted)
    assert len(list(out.glob("[!.]*"))) == 1  # the library finds what the command has written
    n_tokens, n_cut = int(found.n_tokens.sum()), found.n_truncated
    assert f"9 questions, {n_tokens} tokens, layers [1, 3], poolings ['mean'], {n_cut} " in said
    assert 0 < n_cut < 9 and n_tokens < 9 * 5
    asked = {}
    monkeypatch.setattr(extraction, "extract", lambda *_, **given: asked.update(given) or found)
    invoke(*arguments, "--engine", "ray", "--address", "head:6379", "--workers", 8)
    cluster = {"engine": "ray", "address": "head:6379", "workers": 8}
    assert (wanted | cluster | {"cache_dir": out}).items() <= asked.items()


def test_extract_shows_what_is_read_and_reads_nothing(tmp_path):
    (tmp_path / "queries.csv").write_text("question\nw1 w2\nw3\n")
    encoder = tiny_models.save(tmp_path / "m", template=tiny_models.TEMPLATE)
    arguments = ["extract", tmp_path / "queries.csv", tmp_path / "out", "-e", encoder]
    said = invoke(*arguments, "--show-prompt").stdout
    assert said == f"{encoder} reads 4 tokens, with a chat template:\n<user> w1 w2 <assistant>\n"
    said = invoke(*arguments, "--show-prompt", "--max-tokens", 3, "--truncation", "left").stdout
    assert said.endswith("\nw1 w2 <assistant>\n")
    assert not (tmp_path / "out").exists()


def test_extract_refuses_in_plain_words(tmp_path):
    (tmp_path / "queries.csv").write_text("query,note\na,b\n")
    arguments = ["extract", tmp_path / "queries.csv", tmp_path / "out", "-e", "zoo/reader-s"]
    assert "no column 'question', which an extraction needs" in refused(*arguments)
    assert "engine: " in refused(*arguments, "--engine", "dask")
    (tmp_path / "queries.csv").write_text('question\na\n" "\n')
    assert "row 2: question is ' '; it must be filled in" in refused(*arguments)
    (tmp_path / "queries.csv").write_text("question\na\n")
    assert "are for the engine ray" in refused(*arguments, "--workers", 2)
    assert not (tmp_path / "out").exists()


def test_train_checks_every_name_first(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("prefill_router.zoo.training.train", lambda *_: trained.append(1))
    said = refused("zoo", "train", "reader-m", "reader-x", "--out", tmp_path)
    assert "recipe 'reader-x' is unknown. Did you mean 'reader-" in said
    assert trained == []


def test_the_benchmark_is_written_as_collect_reads_it(tmp_path, monkeypatch):
    table = pd.DataFrame({"query_id": ["q1"], "question": ["a"], "reference": ["b"]})
    monkeypatch.setattr("prefill_router.zoo.skills.benchmark", lambda: table)
    out = tmp_path / "out.csv"
    assert invoke("zoo", "queries", out).exit_code == 0
    pd.testing.assert_frame_equal(pd.read_csv(out), table)
    assert "txt" in refused("zoo", "queries", tmp_path / "out.txt")


# -- what the documents say ----------------------------------------------------------------------


def documented():
    """Return (page, arguments) of every call of the program in the pages' code blocks."""
    root = project_root()
    calls = []
    for page in (root / "README.md", *sorted((root / "book").glob("*.md"))):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("prefill-router "):
                    calls.append((page.name, shlex.split(line, comments=True)[1:]))
    return calls


def test_documented_commands_and_their_options_exist():
    calls = documented()
    assert len(calls) > 15
    for page, (first, *rest) in calls:
        command = typer.main.get_command(cli.app).commands[first]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert {word for word in rest if re.match(r"-[-a-z]", word)} <= known, (page, first, rest)
