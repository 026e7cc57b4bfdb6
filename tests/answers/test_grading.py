import time
from functools import partial

import numpy as np
import pytest

from prefill_router.answers.grading import (
    check_reference,
    choice_match,
    exact_match,
    find_grader,
    grade,
    numeric_match,
    regex_match,
)
from prefill_router.errors import InputError

# grader: reference: (right answers, wrong answers)
MATCHES = {
    exact_match: {
        "4 2": ([" 4  2.\n"], ["42", "4 2 0", ""]), "paris": (["Paris"], []),
        "7": (["3 + 4 answer : 7", "so the Answer: 7"], ["answer : 7 answer : 8", "7 answer : 8"]),
        "café": (["cafe\u0301"], []), "3": ([], ["-3"]),
    },
    numeric_match: {
        "42.0": (["42", "6 times 7 is 42"], ["none", ""]), "1234.5": (["It costs $1,234.50."], []),
        "1.2": (["12e-1 km"], []), "3/4": (["0.75", "0.7500001", "3/4"], ["0.751"]),
        "8": (["first 7, then 8"], ["8, then 7", "8 apples. Answer: 7"]), "-5": (["−5"], ["5"]),
        "1/2": (["½", ".5"], []), "1": ([], ["9" * 400, "1/" + "3" * 5000]), "0": ([], ["1/0"]),
    },
}  # fmt: skip


def test_answers_are_matched_exactly_or_by_value():
    for grader, cases in MATCHES.items():
        for reference, (right, wrong) in cases.items():
            assert all(grader(answer, reference) for answer in right), reference
            assert not any(grader(answer, reference) for answer in wrong), reference


NAMED = {
    "a": ["A"],
    "b": [
        "B", "(B)", "B. Because it is so.", "b) 17", "The answer is (B).", "The answer is: B",
        "Answer: B\nThat is all", "**B**", "answer is: A, no wait, the answer is B",
    ],
    "c": ["A dog is an animal, so the answer is C"],
    "d": ["(A) is wrong, hence (D)"],
    "": ["A dog", "I think so", "Banana", ""],
}  # fmt: skip


def test_choice_match_takes_the_letter_that_is_named():
    for named, answers in NAMED.items():
        for answer in answers:
            for letter in ("A", "(b)", "C", "(d)"):
                assert choice_match(answer, letter) is (named == letter.strip("()").lower()), answer


@pytest.mark.parametrize("answer", ["answer:" + " " * 100_000, "\n" * 100_000 + "-"])
def test_an_answer_that_rambles_is_graded_at_once(answer):
    started = time.perf_counter()
    assert not choice_match(answer, "A")
    assert time.perf_counter() - started < 5  # minutes, where a run is split in all possible ways


def test_references_are_checked_before_there_are_answers():
    for grader, good, bad, said in (
        (exact_match, "1 or 2", "  ", "empty"), (numeric_match, "12", "1 or 2", "exactly one"),
        (numeric_match, "-1", "many", "exactly one"), (choice_match, "B", "AB", "no letter"),
        (choice_match, "(b).", "1", "no letter"),
        (lambda answer, reference: 1 / 0, "anything", "\n", "empty"),  # one's own is not called
    ):  # fmt: skip
        check_reference(grader, good)
        with pytest.raises(InputError, match=f"reference.*{said}"):
            check_reference(grader, bad)


def test_regex_match_takes_the_last_match_and_its_group():
    boxed = regex_match(r"\\boxed\{(.*?)\}")
    assert boxed(r"\boxed{6}, no: \boxed{7}", "7")
    assert not boxed(r"\boxed{7}, no: \boxed{6}", "7")
    assert not boxed("7", "7")
    assert regex_match(r"\d+")("7 and 12", "12")
    assert not regex_match(r"(x)?y")("y", "x")
    with pytest.raises(InputError, match="no regular expression"):
        regex_match("(")


def test_graders_are_found_by_name(tmp_path, monkeypatch):
    assert find_grader("numeric") is numeric_match and find_grader("regex:<(.)>")("<a>", "a")
    (tmp_path / "mine_grader.py").write_text(
        "def ends(answer, reference):\n    return answer.endswith(reference)\nword = 'x'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = find_grader("mine_grader:ends")
    assert [grade(mine, "3 + 4", "so 7", "7"), grade(mine, "3 + 4", "7 so", "7")] == [1, 0]
    for name, said in (
        ("exakt", "Did you mean 'exact'"), ("mine_grader:gone", "PYTHONPATH"), (":f", "PYTHONPATH"),
        ("mine_grader:word", "no function"), ("no_such_module:f", "PYTHONPATH"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            find_grader(name)


def test_a_grader_that_fails_is_named_with_the_question_and_what_it_raised():
    def boom(answer, reference):
        raise KeyError("unit")

    for grader, said in [
        (boom, r"boom.*'3 \+ 4'.*KeyError: 'unit'"),
        (find_grader("os:system"), r"system.*'3 \+ 4'.*TypeError"),
        (partial(boom, reference="7"), r"partial.*'3 \+ 4'.*TypeError"),
        (lambda *_: np.zeros(2), r"'3 \+ 4'.*neither True nor False"),
        (lambda *_: None, r"'3 \+ 4'.*neither True nor False \(KeyError: None"),
    ]:
        with pytest.raises(InputError, match=said):
            grade(grader, "3 + 4", "7", "7")
