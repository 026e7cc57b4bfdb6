import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver import read_roman, solve

from prefill_router.zoo.families import FAMILIES, FEW_ANSWERS, LEVELS, NAMES, half

families = st.sampled_from(list(FAMILIES))
levels = st.sampled_from(LEVELS)
seeds = st.integers(0, 2**32)


def operands(problem):
    return {name: str(value) for name, value in problem.slots.items()}


def number(tokens):
    return int(tokens.replace(" ", ""))


@settings(max_examples=600, deadline=None)
@given(families, levels, seeds)
def test_answers_are_those_of_an_independent_computation(family, level, seed):
    problem = FAMILIES[family](level, Random(seed))
    assert problem.answer == solve(family, operands(problem))
    assert problem == FAMILIES[family](level, Random(seed))


ENDS_IN_THE_ANSWER = ("largest", "counting", "parity", "boolean", "recall", "roman")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ENDS_IN_THE_ANSWER), levels, seeds)
def test_working_ends_in_the_answer(family, level, seed):
    problem = FAMILIES[family](level, Random(seed))
    assert f" {problem.working}".endswith(f" {problem.answer}")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["remainder", "sequence"]), levels, seeds)
def test_last_step_of_the_working_computes_the_answer(family, level, seed):
    problem = FAMILIES[family](level, Random(seed))
    left, sign, right = re.fullmatch(
        r"([\d ]+) ([+-]) ([\d ]+)", problem.working.split(" ; ")[-1]
    ).groups()
    change = number(right) if sign == "+" else -number(right)
    assert number(left) + change == number(problem.answer)


@settings(max_examples=200, deadline=None)
@given(levels, seeds)
def test_addition_lines_the_digits_up_column_by_column(level, seed):
    problem = FAMILIES["addition"](level, Random(seed))
    columns = [step.split(" + ") for step in problem.working.split(" ; ")]
    total = sum((int(x) + int(y)) * 10**place for place, (x, y) in enumerate(columns))
    assert total == number(problem.answer)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["sorting", "reversing"]), levels, seeds)
def test_working_lacks_only_the_last_letter(family, level, seed):
    problem = FAMILIES[family](level, Random(seed))
    *_, last = problem.slots["items"].split()
    before = [letter for letter in problem.answer.split() if letter != last]
    assert problem.working.split(" ; ")[-1] == " ".join(before)


@settings(max_examples=100, deadline=None)
@given(levels, seeds)
def test_other_workings(level, seed):
    richest = FAMILIES["most"](level, Random(seed))
    name, value = richest.working.split(" ; ")[-1].split(" ", 1)
    assert name == richest.answer
    assert f"{name} has {number(value)}" in richest.slots["items"]
    row = FAMILIES["brackets"](level, Random(seed))
    assert row.working == row.slots["items"]


@settings(max_examples=100, deadline=None)
@given(levels, seeds)
def test_roman_working_adds_up_symbol_by_symbol(level, seed):
    problem = FAMILIES["roman"](level, Random(seed))
    symbols = problem.slots["items"].split()
    starts = {read_roman(symbols[: i + 1]) for i in range(len(symbols))}
    assert {number(step) for step in problem.working.split(" ; ")} <= starts


@pytest.mark.parametrize("family", FAMILIES)
def test_both_halves_of_the_answers_occur_at_every_level(family):
    for level in LEVELS:
        rng = Random(level)
        found = {half(FAMILIES[family](level, rng).answer) for _ in range(300)}
        assert found == {0, 1}


def test_halves_alternate_along_digits_letters_and_names():
    for row in ("0123456789", "abcdefghijklmnopqrstuvwxyz", NAMES, ("even", "odd"), ("no", "yes")):
        assert [half(first) for first in row] == [i % 2 for i in range(len(row))]
    assert half("4 7 1") == half("4") and half("c a") == half("c")
    assert {half("true"), half("false")} == {0, 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_few_answers_are_named(family):
    rng = Random(0)
    answers = {FAMILIES[family](level, rng).answer for level in LEVELS for _ in range(300)}
    assert (len(answers) < 10) == (family in FEW_ANSWERS)


def test_at_most_a_quarter_of_at_least_twelve_families_has_few_answers():
    assert len(FAMILIES) >= 12
    assert len(FEW_ANSWERS) <= len(FAMILIES) / 4


def test_harder_levels_ask_for_more():
    def size(family, level):
        """Mean number of symbols and mean size of the numbers, in one."""
        rng = Random(1)
        texts = [" ".join(operands(FAMILIES[family](level, rng)).values()) for _ in range(300)]
        if family == "roman":
            return sum(read_roman(text.split()) for text in texts)
        return sum(len(t.split()) + sum(map(int, re.findall(r"\d+", t))) for t in texts)

    for family in FAMILIES:
        sizes = [size(family, level) for level in LEVELS]
        assert sizes == sorted(sizes), family
