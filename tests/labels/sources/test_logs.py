"""Logs that lm-evaluation-harness and Inspect really wrote (see write_logs.py)."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_cli import invoke, refused

from prefill_router.errors import InputError
from prefill_router.labels import load_labels
from prefill_router.labels.sources.logs import is_correct, read_logs
from prefill_router.zoo.skills import benchmark

LOGS = Path(__file__).parent / "logs"
HARNESSES = ["lm_eval", "inspect"]
INSTALLED = {name: importlib.util.find_spec(name) for name in ("lm_eval", "inspect_ai")}
needs_inspect = pytest.mark.skipif(not INSTALLED["inspect_ai"], reason="Inspect is not installed")
either = pytest.mark.parametrize(
    "harness", ["lm_eval", pytest.param("inspect", marks=needs_inspect)]
)


@pytest.fixture
def logs(tmp_path):
    return Path(shutil.copytree(LOGS, tmp_path / "logs"))


def read(directory, *metrics, threshold=None):
    report = []
    return read_logs([directory], report, metrics, threshold), report


def accuracies(directory, harness):
    """Return each model's accuracy as its harness computed it."""
    if harness == "lm_eval":
        found = [json.loads(path.read_text()) for path in directory.rglob("results_*.json")]
        key = "exact_match,after-answer"
        return {about["model_name"]: about["results"]["skills"][key] for about in found}
    from inspect_ai.log import read_eval_log

    found = [read_eval_log(str(path)) for path in directory.rglob("*.eval")]
    return {f.eval.model: f.results.scores[0].metrics["accuracy"].value for f in found}


def check(directory, harness):
    """Check a table of logs against what its harness reports, and the benchmark's texts."""
    table, report = read(directory / harness)
    assert table.groupby("model")["is_correct"].mean().to_dict() == pytest.approx(
        accuracies(directory / harness, harness)
    )
    assert {*table["question"]} <= {*benchmark()["question"]}
    assert report == [] and table["is_correct"].notna().all()
    return table


@either
def test_accuracies_are_those_that_the_harness_reports(harness):
    table = check(LOGS, harness)
    n, n_draws = (80, 1) if harness == "lm_eval" else (12, 2)
    assert table.groupby("model")["query_id"].nunique().tolist() == [n * n_draws] * 2
    assert table["question"].nunique() == n
    assert table["output_tokens"].notna().all() == (harness == "inspect")


@pytest.mark.skipif(not all(INSTALLED.values()), reason="a harness is not installed")
def test_logs_written_now_are_read(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    import write_logs

    write_logs.write(tmp_path, n_questions=12)
    for harness in HARNESSES:
        check(tmp_path, harness)


@needs_inspect
def test_draws_of_a_question_are_queries_of_one_group(tmp_path):
    table, _ = read(LOGS / "inspect")
    second = table["query_id"].str.endswith("#2")
    assert second.sum() == 24
    labels = load_labels(table)
    groups = pd.DataFrame({"text": labels.question, "group": labels.group})
    assert groups.groupby("text")["group"].nunique().max() == 1
    assert groups.groupby("group")["text"].nunique().max() == 1


@either
def test_logs_become_a_router_in_three_commands(harness, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop.yaml").write_text("{labels: labels.parquet, encoder: zoo/reader-s, n_seeds: 2}")
    assert invoke("labels", LOGS / harness, "-o", "labels.parquet").exit_code == 0
    assert invoke("fit", "loop.yaml").exit_code == 0
    routed = invoke("route", "loop.yaml", "write x x v i in digits .")
    assert routed.exit_code == 0
    assert all(f"P({target}) = " in routed.stdout for target in {*read(LOGS / harness)[0]["model"]})


# -- what cannot be used -------------------------------------------------------------------------


def edit_results(directory, **changes):
    path = next(directory.glob("results_*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_samples(directory, edit):
    path = next(directory.glob("samples_*.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(edit(line)) for line in lines))
    return path


def unlink(directory, pattern):
    next(directory.glob(pattern)).unlink()


def cut(directory, pattern, n):
    path = next(directory.glob(pattern))
    path.write_bytes(path.read_bytes()[:n])


def drop(directory, pattern):
    path = next(directory.glob(pattern))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))


def without(directory):
    edit_samples(directory, lambda s: s | {"exact_match": 0.3 if s["doc_id"] % 2 else 0.6})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda d: unlink(d, "samples_*"), "is missing, but .*results_.*--log_samples"),
        (lambda d: unlink(d, "results_*"), "restore its run's results beside it"),
        (lambda d: cut(d, "samples_*", 0), "holds 0 of 80 samples; run the task again"),
        (lambda d: drop(d, "samples_*"), "holds 7 of 80 samples"),
        (lambda d: next(d.glob("samples_*")).write_bytes(b"\xff\xfe"), "damaged.*Unicode"),
        (lambda d: cut(d, "samples_*", 900), "samples_.*, with results_.*, is damaged"),
        (lambda d: cut(d, "results_*", 900), "results_.* is not valid JSON"),
        (lambda d: edit_results(d, versions={}), "is damaged or older than"),
        (without, "no metrics can say .*--metric NAME.*--threshold X"),
        (lambda d: edit_results(d, higher_is_better={"skills": {"exact_match": False}}), "no met"),
        (lambda d: edit_results(d, versions={"skills": 2.0}), "80 queries.*differ.*first is kept"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_used_is_left_out_with_its_remedy(harm, said, logs, tmp_path):
    harm(logs / "lm_eval" / "llama-b")
    out = tmp_path / "labels.parquet"
    result = invoke("labels", logs / "lm_eval", "-o", out)
    text = " ".join(result.stderr.split())
    assert result.exit_code == 3 and re.search(said, text), text
    assert "llama-b" in text
    whole, _ = read(LOGS / "lm_eval")
    kept = whole[whole["model"] == "gpt2-a"].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_parquet(out), kept, check_dtype=False)


def test_a_metric_is_cut_at_a_stated_threshold(logs):
    for name in ("gpt2-a", "llama-b"):
        without(logs / "lm_eval" / name)
    with pytest.raises(InputError, match="--threshold"):
        read(logs / "lm_eval")
    table, _ = read(logs / "lm_eval", threshold=0.6)
    assert table["is_correct"].mean() == 0.5


def test_runs_that_disagree_leave_a_label_empty(logs):
    again = Path(shutil.copytree(logs / "lm_eval" / "llama-b", logs / "lm_eval" / "again"))
    assert read(logs / "lm_eval")[1] == []  # the same answers twice are no draws
    flipped = edit_samples(
        again, lambda s: s | {"exact_match": abs((s["doc_id"] < 3) - s["exact_match"])}
    )
    table, report = read(logs / "lm_eval")
    assert table["is_correct"].isna().sum() == 3 and len(table) == 160
    assert "llama-b: 3 queries are right in one run and wrong in another" in report[0]
    assert str(flipped) in report[0] and "Leave one run out" in report[0]


def test_queries_that_differ_between_models_are_reported(logs):
    directory = logs / "lm_eval" / "llama-b"
    configs = {"skills": {"doc_to_text": "Question: {{question}}"}}
    edit_results(directory, configs=configs)
    edit_samples(directory, lambda s: s | ({"doc_hash": "f" * 64} if s["doc_id"] == 5 else {}))
    table, report = read(logs / "lm_eval")
    assert "skills: 79 queries are worded differently; the first wording is kept" in report[0]
    assert report[1:] == [f"skills: {m} has no label on 1 queries." for m in ("gpt2-a", "llama-b")]
    assert table["question"].str.startswith("Question: ").sum() == 1


def test_names_in_logs_cannot_write_to_the_terminal(logs, tmp_path):
    directory = logs / "lm_eval" / "llama-b"
    edit_results(directory, model_name="\x1b[2J[bold]llama")
    edit_samples(directory, lambda s: s | ({"doc_hash": "f" * 64} if s["doc_id"] == 5 else {}))
    result = invoke("labels", logs / "lm_eval", "-o", tmp_path / "labels.csv")
    assert "[2J[bold]llama has no label on 1 queries" in result.stderr
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("template", "expected"),
    [("question", "ask"), ("Q: {{question}}", "Q: ask"), ("{{answer}}", "<user> ask"),
     ("{{gone}}", "<user> ask"), ("{{", "<user> ask"), ("def f(doc):\n    return 1", "<user> ask")],
)  # fmt: skip
def test_a_question_is_what_the_template_makes_or_the_prompt(template, expected, logs):
    for name in ("gpt2-a", "llama-b"):
        directory = logs / "lm_eval" / name
        edit_results(directory, configs={"skills": {"doc_to_text": template}})
        sent = {"gen_args_0": {"arg_0": "<user> ask"}}
        doc = {"question": "ask", "answer": "7"}
        edit_samples(directory, lambda s, new={"doc": doc, "arguments": sent}: s | new)
    assert {*read(logs / "lm_eval")[0]["question"]} == {expected}


@pytest.mark.parametrize(
    ("metrics", "threshold", "expected"),
    [((), None, "2 metrics"), (["acc"], None, [1, 0]), (["match,a"], None, [0, np.nan]),
     (["match"], None, "2 metrics"), (["f1"], None, "no metrics"), (["f1"], 0.5, [1, 0]),
     (["acc"], 0.5, [1, 0]), (["gone"], 0.5, "no metrics"), (["list"], 0.5, "no metrics")],
)  # fmt: skip
def test_exactly_one_metric_says_what_is_right(metrics, threshold, expected):
    scores = pd.DataFrame(
        {"acc": [True, False], "f1": [0.5, 0.2], "list": [[1], [0]],
         "match,a": ["I", None], "match,b": ["C", "N"]}
    )  # fmt: skip
    if isinstance(expected, str):
        expected = "3 metrics" if expected == "2 metrics" and not metrics else expected
        with pytest.raises(InputError, match=f"here: .*{expected}"):
            is_correct(scores, Path("here"), metrics, threshold)
    else:
        np.testing.assert_array_equal(
            is_correct(scores, Path("here"), metrics, threshold), expected
        )


def test_what_is_no_log_is_refused(tmp_path):
    out = tmp_path / "labels.parquet"
    assert "no logs. They are samples_" in refused("labels", tmp_path, "-o", out)
    assert "no logs" in refused("labels", LOGS, tmp_path / "gone.txt", "-o", out)
    assert not out.exists()


# -- Inspect alone -------------------------------------------------------------------------------


def test_inspect_logs_need_inspect(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    said = refused("labels", LOGS / "inspect", "-o", tmp_path / "labels.parquet")
    assert said.count("pip install inspect-ai") == 2


@needs_inspect
@pytest.mark.parametrize(
    ("changes", "said"),
    [({"status": "started"}, "has not finished.*inspect eval-retry"),
     ({"status": "cancelled"}, "has not finished"), ({"invalidated": True}, "is invalidated"),
     ({"samples": []}, "holds no samples"), (None, "is damaged or no log of Inspect")],
)  # fmt: skip
def test_inspect_logs_that_cannot_be_used(changes, said, logs):
    from inspect_ai.log import read_eval_log, write_eval_log

    _, second = sorted((logs / "inspect").iterdir())
    if changes is None:
        second.write_bytes(second.read_bytes()[:2000])
    else:
        log = read_eval_log(str(second))
        write_eval_log(log.model_copy(update=changes), str(second))
    table, report = read(logs / "inspect")
    assert table["model"].nunique() == 1 and len(report) == 1
    assert re.search(said, report[0]) and str(second) in report[0]


@needs_inspect
def test_inspect_samples_with_choices_messages_and_failures(logs):
    from inspect_ai.log import EvalError, read_eval_log, write_eval_log
    from inspect_ai.model import ChatMessageUser

    for path in (logs / "inspect").iterdir():
        log = read_eval_log(str(path))
        messages = {"input": [ChatMessageUser(content="Which?")], "choices": ["one", "two"]}
        error = {"error": EvalError(message="lost", traceback="", traceback_ansi="")}
        scores = {"scores": {"match": log.samples[2].scores["match"].model_copy()}}
        scores["scores"]["match"].value = {"a": "C", "b": 0.3}
        for sample, change in zip(log.samples, [messages, error], strict=False):
            vars(sample).update(change)
        for sample in log.samples[2:]:
            vars(sample).update(scores)
        log.samples[0].scores = scores["scores"]
        write_eval_log(log, str(path))
    table, report = read(logs / "inspect", "match,a")
    assert "Which?\nA. one\nB. two" in {*table["question"]}
    assert table["is_correct"].isna().sum() == 2 and table["is_correct"].min() == 1
    assert report == [f"skills: hf/{m} has no label on 1 queries." for m in ("gpt2-a", "llama-b")]
