"""Pools from clones of public repositories, here made small in their layout."""

import json
import zipfile

import pytest
from test_cli import invoke, refused

from prefill_router.errors import InputError
from prefill_router.labels import load_labels
from prefill_router.labels.sources import mmlu_pro, zeroeval
from prefill_router.labels.sources.pools import count_tokens

N = 300


def mmlu_records(model, field):
    """Return records: 1 and 2 share a stem, 3 is asked with another reference, 4 repeats 5."""
    for i in range(N):
        yield {
            "question_id": i,
            "question": {1: " Which is true? ", 2: "Which  is true?", 4: "Question 5"}.get(
                i, f"Question {i}"
            ),
            "options": [f"yes {i}", "no"] if i not in (4, 5) else ["yes", "no"],
            "answer": "B" if i == 3 and model == "b_1" else "A",
            "category": "computer science",
            field: f"The answer is ({'A' if i % 2 else 'B'}).",
        }


@pytest.fixture
def mmlu_clone(tmp_path):
    (tmp_path / "eval_results").mkdir()
    for model, field, n in [
        ("a-3_1-it", "generated_text", N), ("b_1", "model_outputs", N), ("c", "generated_text", N),
        ("partial", "generated_text", N // 2),
    ]:  # fmt: skip
        records = [*mmlu_records(model, field)][:n]
        dropped = [record for record in records if model != "c" or record["question_id"] != 7]
        path = tmp_path / "eval_results" / f"model_outputs_{model}_5shots.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{model}.json", json.dumps([*dropped, ["no record"]]))
    return tmp_path


def test_mmlu_pro_is_a_complete_matrix_with_groups_of_stems(mmlu_clone, tmp_path):
    out = tmp_path / "labels" / "mmlu_pro.parquet"
    result = invoke("labels", "mmlu-pro", mmlu_clone, "-o", out)
    assert result.exit_code == 0, result.output
    assert "another version: partial." in result.stderr
    assert "Queries left out: 2 that not every model" in result.stderr
    assert "1 that repeat a text" in result.stderr
    labels = load_labels(out)
    assert labels.targets == ("a-3.1-it", "b_1", "c") and labels.complete.all()
    numbers = [int(name.removeprefix("mmlu_pro-")) for name in labels.query_id]
    assert numbers == [i for i in range(N) if i not in (3, 7, 5)]
    assert labels.group[1] == labels.group[2] and len({*labels.group}) == labels.n_queries - 1
    assert labels.question[1] == "Which is true?\nA. yes 1\nB. no"
    assert {*labels.benchmark} == {"mmlu_pro_computer_science"}
    assert labels.correct.tolist() == [[i % 2] * 3 for i in numbers]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("The answer is (C). Question: the answer is (D)", "C"), ("so the answer is J", "J"),
     ("Answer:\nE, not F", "E"), ("I took A, then B.", "B"), ("nothing", None), ("", None)],
)  # fmt: skip
def test_a_letter_is_found_by_the_repositorys_rules(answer, expected):
    assert mmlu_pro.letter(answer) == expected


@pytest.mark.parametrize(
    ("text", "reference", "task", "expected"),
    [
        ('{"reasoning": "so",\n "answer": "1,018 eggs"}', "# 1018", "gsm", True),
        ('{"reasoning": "so", "answer": 18.0} {"answer": 2}', "# 18", "gsm", True),
        ('{"reasoning": "a "quote"", "answer": "7"}', "# 7", "gsm", True),
        ("answer: 3.5 or 4", "3.5", "math-l5", True),
        ("thus $\\boxed{12}$", "12", "math-l5", True),
        ('{"answer": "1/2"}', "$0.5$", "math-l5", True),
        ('{"answer": "1/0"}', "1", "math-l5", True),  # no fraction: the first number counts
        ('{"answer": "none"}', "# 18", "gsm", False),
        ("I do not know", "# 18", "gsm", False),
        ('{"answer": "\'ab\'"}', "ab", "crux", True),
        ('{"answer": [1, 2]}', "[1, 2]", "crux", True),
        ('{"answer": "[1,2]"}', "[1, 2]", "crux", False),
        ('["answer"]', "18", "gsm", False),
    ],
)
def test_zeroeval_grades_by_the_repositorys_rules(text, reference, task, expected):
    assert zeroeval.is_right(zeroeval.answer_of(text), reference, task) == expected


@pytest.fixture
def zero_clone(tmp_path):
    for task, name in zeroeval.TASKS.items():
        (tmp_path / "result_dirs" / task).mkdir(parents=True)
        for model, right in [("m", 1), ("n", 2)]:
            shown = "gemma-2-27b-it@together" if (model, task) == ("n", "gsm") else model
            shown = "gemma-2-27b-it" if model == "n" and task != "gsm" else shown
            records = [
                {"id": f"{task}-#{i}", name: f"{task} {i}?", "answer": str(i),
                 "output": [json.dumps({"answer": str(i * (i % right == 0))})]}
                for i in range(1, 5)
            ]  # fmt: skip
            path = tmp_path / "result_dirs" / task / f"{shown}.json"
            path.write_text(json.dumps(records))
    return tmp_path


def test_zeroeval_joins_three_tasks(zero_clone):
    report = []
    labels = load_labels(zeroeval.POOL.read(zero_clone, report))
    assert labels.targets == ("gemma-2-27b-it", "m") and labels.n_queries == 12
    assert labels.query_id[:4].tolist() == [f"crux-{i:04d}" for i in range(1, 5)]
    assert labels.correct.tolist() == [[i % 2 == 0, 1] for _ in range(3) for i in range(1, 5)]


@pytest.mark.parametrize(
    ("harm", "said"),
    [(lambda d: (d / "result_dirs" / "gsm").rename(d / "gsm"), "has no result_dirs/gsm/"),
     (lambda d: (d / "result_dirs/gsm/m.json").write_text("[{"), "gsm/m.json is damaged"),
     (lambda d: (d / "result_dirs/crux/m.json").write_text('[{"id": 1}]'), "crux/m.json is dam"),
     (lambda d: (d / "result_dirs/crux/m.json").write_text("[]"), "it holds no answers"),
     (lambda d: (d / "result_dirs/crux/m.json").unlink(), "No query is left")],
)  # fmt: skip
def test_a_clone_without_its_results_is_refused(harm, said, zero_clone, tmp_path):
    harm(zero_clone)
    out = tmp_path / "labels.parquet"
    assert said in refused("labels", "zeroeval", zero_clone, "-o", out)
    assert not out.exists()


def test_other_clones_and_options_are_refused(mmlu_clone, tmp_path):
    out = tmp_path / "labels.parquet"
    said = refused("labels", "mmlu-pro", tmp_path / "gone", "-o", out)
    assert "has no eval_results/" in said and "clone" in said
    assert "nothing else" in refused("labels", "mmlu-pro", mmlu_clone, "--metric", "a", "-o", out)
    path = next((mmlu_clone / "eval_results").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"is damaged .*git checkout"):
        mmlu_pro.POOL.read(mmlu_clone, [])


def test_tokens_are_words_signs_and_digits_by_three():
    assert count_tokens("The sum is 12345 ($3).\n") == 9
