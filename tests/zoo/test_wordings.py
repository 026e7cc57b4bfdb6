import json
import re
from random import Random

import pytest
from solver import read_number, without_aside

from prefill_router.extraction.prompts import format_prompts
from prefill_router.extraction.sources import resolve
from prefill_router.zoo.families import FAMILIES
from prefill_router.zoo.recipes import MAX_POSITIONS, RECIPES
from prefill_router.zoo.skills import answer_text, practice_queries
from prefill_router.zoo.wordings import SPECIAL, TEMPLATES, put_into_words, spell, vocabulary

THINKER = RECIPES["thinker-e"]


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


def test_spelling_and_asides_are_as_often_as_said():
    rng = Random(5)
    problem = FAMILIES["addition"](5, rng)
    texts = [put_into_words("addition", problem, 0, rng) for _ in range(4000)]
    asides = sum(without_aside(text) != text for text in texts) / len(texts)
    spelled = sum(not re.search(r"\d.*\d", without_aside(text)) for text in texts) / len(texts)
    assert asides == pytest.approx(0.3, abs=0.03)
    # of three in twenty, each of two numbers with an even chance
    assert 0 < spelled < 0.15


def test_every_committed_model_has_this_vocabulary_in_this_order(tokenizer):
    words = vocabulary()
    assert len(set(words)) == len(words)
    assert tuple(words[: len(SPECIAL)]) == SPECIAL
    assert tokenizer.convert_ids_to_tokens(range(len(words))) == words
    for name in RECIPES:
        stored = json.loads((resolve(f"zoo/{name}").location / "tokenizer.json").read_text())
        assert stored == json.loads(tokenizer.backend_tokenizer.to_str())


def test_questions_and_answers_are_in_known_words_and_leave_room(queries, tokenizer):
    spoken = [answer_text(THINKER, query) for query in practice_queries(THINKER, 3000)]
    said = [*queries["reference"], *spoken]
    prompts, answers = (
        tokenizer(texts, add_special_tokens=False)["input_ids"]
        for texts in (queries["question"].tolist(), said)
    )
    assert not any(tokenizer.unk_token_id in row for row in prompts + answers)
    assert [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in answers] == said
    longest = max(map(len, answers)) + 1  # the end token
    assert longest <= 96
    assert max(map(len, prompts)) + 2 + 96 <= MAX_POSITIONS


def test_digits_letters_and_special_tokens_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("add 345 to 9 .") == ["add", "3", "4", "5", "to", "9", "."]
    (prompt,) = format_prompts(tokenizer, ["what is ( a ] ?"], None)
    assert prompt == "<user> what is ( a ] ? <assistant>"
    assert tokenizer.tokenize(prompt) == prompt.split()
    ids = tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "what is ( a ] ?"
    assert tokenizer("strange words")["input_ids"] == [tokenizer.unk_token_id] * 2
