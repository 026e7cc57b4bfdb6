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


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("4 2", "4 2", True),
        (" 4  2.\n", "4 2", True),
        ("Paris", "paris", True),
        ("cafe\u0301", "café", True),
        ("42", "4 2", False),
        ("4 2 0", "4 2", False),
        ("", "4", False),
        ("3 + 4 answer : 7", "7", True),
        ("so the Answer: 7", "7", True),
        ("answer : 7 answer : 8", "7", False),
        ("7 answer : 8", "7", False),
        ("-3", "3", False),
    ],
)
def test_exact_match(answer, reference, right):
    assert exact_match(answer, reference) is right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("42", "42.0", True),
        ("It costs $1,234.50.", "1234.5", True),
        ("12e-1 km", "1.2", True),
        ("3/4", "0.75", True),
        ("0.7500001", "3/4", True),
        ("0.751", "3/4", False),
        ("first 7, then 8", "8", True),
        ("first 7, then 8", "7", False),
        ("8 apples. Answer: 7", "7", True),
        ("−5", "-5", True),
        ("5", "-5", False),
        ("½", "0.5", True),
        (".5", "1/2", True),
        ("1/0", "0", False),
        ("none", "1", False),
        ("", "0", False),
        ("9" * 400, "1", False),
        ("1/" + "3" * 5000, "1", False),
    ],
)
def test_numeric_match(answer, reference, right):
    assert numeric_match(answer, reference) is right


@pytest.mark.parametrize("reference", ["many", "1 or 2", ""])
def test_a_reference_without_one_number_is_refused(reference):
    with pytest.raises(InputError, match="exactly one"):
        numeric_match("1", reference)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("B", "b"),
        ("(B)", "b"),
        ("B. Because it is so.", "b"),
        ("b) 17", "b"),
        ("The answer is (B).", "b"),
        ("The answer is: B", "b"),
        ("Answer: B\nThat is all", "b"),
        ("A dog is an animal, so the answer is C", "c"),
        ("(A) is wrong, hence (D)", "d"),
        ("A dog", ""),
        ("I think so", ""),
        ("Banana", ""),
        ("", ""),
        ("**B**", "b"),
        ("answer is: A, no wait, the answer is B", "b"),
    ],
)
def test_choice_match(answer, named):
    for letter in "ABCD":
        assert choice_match(answer, letter) is (named == letter.lower())
        assert choice_match(answer, f"({letter.lower()})") is (named == letter.lower())


@pytest.mark.parametrize("answer", ["answer:" + " " * 100_000, "\n" * 100_000 + "-"])
def test_an_answer_that_rambles_is_graded_at_once(answer):
    started = time.perf_counter()
    assert not choice_match(answer, "A")
    assert time.perf_counter() - started < 5  # minutes, where a run is split in all possible ways


def test_a_reference_without_one_letter_is_refused():
    for reference in ("AB", "", "1"):
        with pytest.raises(InputError, match="no letter"):
            choice_match("A", reference)


def test_references_are_checked_before_there_are_answers():
    for grader, good, bad in (
        (exact_match, "1 or 2", "  "),
        (numeric_match, "12", "1 or 2"),
        (choice_match, "B", "AB"),
        (regex_match("x"), "1 or 2", ""),
        (lambda answer, reference: 1 / 0, "anything", "\n"),  # one's own is not called
    ):
        check_reference(grader, good)
        with pytest.raises(InputError, match="reference"):
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
    assert find_grader("exact") is exact_match
    assert find_grader("numeric") is numeric_match
    assert find_grader("choice") is choice_match
    assert find_grader("regex:<(.)>")("<a>", "a")
    (tmp_path / "mine_grader.py").write_text(
        "def ends(answer, reference):\n    return answer.endswith(reference)\n"
        "def forgets(answer, reference):\n    answer.endswith(reference)\nword = 'x'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = find_grader("mine_grader:ends")
    assert [grade(mine, "3 + 4", "so 7", "7"), grade(mine, "3 + 4", "7 so", "7")] == [1, 0]
    with pytest.raises(InputError, match=r"forgets.*3 \+ 4.*must return True or False"):
        grade(find_grader("mine_grader:forgets"), "3 + 4", "7", "7")
    for name, said in [
        ("exakt", "Did you mean 'exact'"),
        ("mine_grader:gone", "PYTHONPATH"),
        ("mine_grader:word", "no function"),
        ("no_such_module:f", "PYTHONPATH"),
        (":f", "PYTHONPATH"),
    ]:
        with pytest.raises(InputError, match=said):
            find_grader(name)


def test_a_grader_that_fails_is_named_with_the_question_and_what_it_raised():
    def boom(answer, reference):
        raise KeyError("unit")

    for grader, said in [
        (boom, r"boom.*'3 \+ 4'.*KeyError: 'unit'"),
        (find_grader("os:system"), r"system.*'3 \+ 4'.*TypeError"),
        (partial(boom, reference="7"), r"partial.*'3 \+ 4'.*TypeError"),
        (lambda *_: np.zeros(2), r"'3 \+ 4'.*ValueError.*ambiguous"),
    ]:
        with pytest.raises(InputError, match=said):
            grade(grader, "3 + 4", "7", "7")
    with pytest.raises(InputError, match=r"^The reference 'x' holds 0 numbers"):
        grade(numeric_match, "3 + 4", "7", "x")
