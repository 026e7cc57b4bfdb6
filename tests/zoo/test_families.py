import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver import read_roman

from prefill_router.zoo.families import FAMILIES, FEW_ANSWERS, LEVELS, NAMES, half


def number(tokens):
    return int(tokens.replace(" ", ""))


def total_of(step):
    return sum(map(int, re.findall(r"-?\d+", step.replace(" ", ""))))


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(FAMILIES)), st.sampled_from(LEVELS), st.integers(0, 2**32))
def test_working_leads_to_the_answer(family, level, seed):
    problem = FAMILIES[family](level, Random(seed))
    assert problem == FAMILIES[family](level, Random(seed))
    items = str(problem.slots.get("items")).split()
    *_, last = steps = problem.working.split(" ; ")
    match family:
        case "addition":
            total = sum(total_of(step) * 10**place for place, step in enumerate(steps))
            assert total == number(problem.answer)
        case "remainder" | "sequence":
            assert total_of(last) == number(problem.answer)
        case "sorting" | "reversing":  # the last letter is left to the answer
            assert last.split() == [x for x in problem.answer.split() if x != items[-1]]
        case "brackets":
            assert problem.working == problem.slots["items"]
        case "most":
            assert last.split()[0] == problem.answer
            assert re.sub(r" (\d) (\d)", r" has \1\2", last) in problem.slots["items"]
        case _:
            assert f" {problem.working}".endswith(f" {problem.answer}")
    if family == "roman":
        sums = {read_roman(items[: i + 1]) for i in range(len(items))}
        assert {number(step) for step in steps} <= sums


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_every_level_are_of_both_halves_and_few_only_where_said(family):
    rng, answers = Random(0), set()
    for level in LEVELS:
        found = {FAMILIES[family](level, rng).answer for _ in range(300)}
        assert {half(answer) for answer in found} == {0, 1}
        answers |= found
    assert (len(answers) < 10) == (family in FEW_ANSWERS)


def test_halves_alternate_along_digits_letters_and_names():
    for row in ("0123456789", "abcdefghijklmnopqrstuvwxyz", NAMES, ("even", "odd"), ("no", "yes")):
        assert [half(first) for first in row] == [i % 2 for i in range(len(row))]
    assert half("4 7 1") == half("4") and half("c a") == half("c")
    assert {half("true"), half("false")} == {0, 1}
