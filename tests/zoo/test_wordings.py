import json

from solver import read_number

from prefill_router.extraction.prompts import format_prompts
from prefill_router.extraction.sources import resolve
from prefill_router.zoo.recipes import MAX_POSITIONS, RECIPES
from prefill_router.zoo.skills import answer_text, practice_queries
from prefill_router.zoo.wordings import SPECIAL, spell, vocabulary

THINKER = RECIPES["thinker-e"]


def test_numbers_are_spelled_out():
    assert [read_number(spell(number)) for number in range(1000)] == list(range(1000))
    assert spell(340) == "three hundred forty" and spell(17) == "seventeen"
    assert sum("zero" in spell(number) for number in range(1000)) == 1


def test_every_committed_model_has_this_vocabulary_in_this_order(tokenizer):
    words = vocabulary()
    assert len(set(words)) == len(words) and tuple(words[: len(SPECIAL)]) == SPECIAL
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
    assert max(map(len, answers)) + 1 <= 96  # with the end token
    assert max(map(len, prompts)) + 2 + 96 <= MAX_POSITIONS


def test_digits_letters_and_special_tokens_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("add 345 to 9 .") == ["add", "3", "4", "5", "to", "9", "."]
    (prompt,) = format_prompts(tokenizer, ["what is ( a ] ?"], None)
    assert prompt == "<user> what is ( a ] ? <assistant>"
    assert tokenizer.tokenize(prompt) == prompt.split()
    ids = tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "what is ( a ] ?"
    assert tokenizer("strange words")["input_ids"] == [tokenizer.unk_token_id] * 2
