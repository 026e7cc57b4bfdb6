from functools import partial

import numpy as np
import pytest

from prefill_router.answers.grading import (
    check_reference,
    choice_match,
    exact_match,
    find_fault,
    find_grader,
    grade,
    numeric_match,
    regex_match,
)
from prefill_router.answers.ledger import Reply
from prefill_router.errors import InputError

# grader: reference: (right answers, wrong answers)
MATCHES = {
    exact_match: {
        "4 2": ([" 4  2.\n"], ["42", "4 2 0", ""]), "paris": (["Paris"], []),
        "7": (["3 + 4 answer : 7", "so the Answer: 7"], ["answer : 7 answer : 8", "7 answer : 8"]),
        "café": (["cafe\u0301"], []), "3": ([], ["-3"]), ".5": ([], ["5"]), "C++": ([], ["C"]),
        "Paris": (["**Paris**", "**Answer:** Paris", '"Paris"', "The answer is: Paris", "`Paris`.",
                   "<think>x</think>Paris", r"\boxed{\text{Paris}}", "Answer: Paris. It is.",
                   "The answer is Paris"], ["Paris, Texas", "<think>Paris", "No. Paris", '""']),
        "The answer is 5": (["The answer is 5."], []),
        r"\text{Eve}": ([r"\boxed{\text{Eve}}"], []), "``": (["``"], [""]),
    },
    numeric_match: {
        "42.0": (["42", "6 times 7 is 42"], ["none", ""]), "1234.5": (["It costs $1,234.50."], []),
        "1.2": (["12e-1 km"], []), "3/4": (["0.75", "0.7500001", "3/4"], ["0.751"]),
        "3.14": (["3,14"], ["314", "14"]), "12": (["12 cm²"], ["1,2", "2"]), "4": ([], ["-4"]),
        "-4": ([], ["page 3-4"]), "12500": (["12 500"], ["500"]), "9500": (["$9{,}500$"], ["500"]),
        r"\frac{3}{4}": ([r"$\frac{3}{4}$"], ["4"]), "see #### 1,500": (["1500"], ["1.5"]),
        "8": (["first 7, then 8"], ["8, then 7", "8 apples. Answer: 7"]), "-5": (["−5"], ["5"]),
        "1/2": (["½", ".5"], []), "17": ([], ["<think>try 3, then 17"]), "0": ([], ["1/0"]),
        "1": ([], ["9" * 400, "1/" + "3" * 5000]),
    },
    choice_match: {
        "B": ([r"\boxed{B}", "The answer is b"], ["<think>B", "A"]),
        "(a).": (["A"], ["The answer is a capital city, so B.", "<think>A? no</think>\nB", ""]),
        "I": (["I"], ["The answer is B. I checked this answer; I am sure."]),
    },
}  # fmt: skip


def test_answers_are_matched_with_references():
    for grader, cases in MATCHES.items():
        for reference, (right, wrong) in cases.items():
            assert all(grader(answer, reference) for answer in right), reference
            assert not any(grader(answer, reference) for answer in wrong), reference


def test_references_are_checked_before_there_are_answers():
    for grader, good, bad, said in (
        (exact_match, "1 or 2", "  ", "empty"), (numeric_match, "12", "1 or 2", "exactly one"),
        (numeric_match, "-1", "many", "exactly one"), (numeric_match, "3.4", "3,4", "2 numbers"),
        (numeric_match, "3,400", "3-4", "2 numbers"), (numeric_match, "1/4", "1/0", "exactly one"),
        (choice_match, "B", "AB", "no letter"), (choice_match, "(b).", "1", "no letter"),
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
    assert grade(mine, "3 + 4", "<think>8</think>7", "7") == 1  # what is thought is not said
    assert grade(mine, "3 + 4", "<think>7", "7") == grade(lambda *_: True, "", "<think>", "") == 0
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


def test_faults_of_an_answer_are_told():
    for text, finish, fault in (
        ("7", "stop", ""), ("7", "length", "cut off"), ("<think>7", "stop", "cut off"),
        ("<think>7</think> ", "stop", "empty"), ("", "stop", "empty"), ("x", "stop", "unreadable"),
        ("", "length", "cut off"),
    ):  # fmt: skip
        reply = Reply(text, None, None, finish, None)
        assert find_fault(numeric_match, reply) == fault
        assert find_fault(lambda *_: True, reply) == fault.replace("unreadable", "")
    assert find_fault(regex_match("<(.)>"), Reply("7", None, None, "stop", None)) == "unreadable"
