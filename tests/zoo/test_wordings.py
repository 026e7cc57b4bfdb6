import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver import read_number, slots_of, solve, without_aside

from prefill_router.zoo.families import FAMILIES, LEVELS
from prefill_router.zoo.wordings import TEMPLATES, put_into_words, spell


def test_numbers_are_spelled_out():
    assert [read_number(spell(number)) for number in range(1000)] == list(range(1000))
    assert spell(340) == "three hundred forty" and spell(17) == "seventeen"
    assert sum("zero" in spell(number) for number in range(1000)) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_three_wordings_or_more_each_with_all_operands(family):
    slots = FAMILIES[family](1, Random(0)).slots
    assert len(set(TEMPLATES[family])) == len(TEMPLATES[family]) >= 3
    for template in TEMPLATES[family]:
        assert sorted(re.findall(r"{(\w+)}", template)) == sorted(slots)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(FAMILIES)), st.sampled_from(LEVELS), st.integers(0, 2**32))
def test_the_text_alone_has_the_answer_whatever_is_put_around_it(family, level, seed):
    rng = Random(seed)
    problem = FAMILIES[family](level, rng)
    wording = rng.randrange(len(TEMPLATES[family]))
    text = put_into_words(family, problem, wording, rng)
    assert text == text.lower() == " ".join(text.split())
    assert solve(family, slots_of(family, wording, without_aside(text))) == problem.answer


def test_spelling_and_asides_are_as_often_as_said():
    rng = Random(5)
    problem = FAMILIES["addition"](5, rng)
    texts = [put_into_words("addition", problem, 0, rng) for _ in range(4000)]
    asides = sum(without_aside(text) != text for text in texts) / len(texts)
    spelled = sum(not re.search(r"\d.*\d", without_aside(text)) for text in texts) / len(texts)
    assert asides == pytest.approx(0.3, abs=0.03)
    # of three in twenty, each of two numbers with an even chance
    assert 0 < spelled < 0.15
