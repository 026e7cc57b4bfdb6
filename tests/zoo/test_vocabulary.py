import json
import os
import subprocess
import sys

from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import resolve
from prefill_router.extraction.templates import format_prompts
from prefill_router.zoo.practice import answer_text, practice_queries
from prefill_router.zoo.recipes import MAX_POSITIONS, RECIPES
from prefill_router.zoo.vocabulary import SPECIAL, vocabulary

THINKER = RECIPES["thinker-e"]


def test_order_is_the_same_in_another_process_and_in_every_committed_model(tokenizer):
    words = vocabulary()
    assert len(set(words)) == len(words)
    assert tuple(words[: len(SPECIAL)]) == SPECIAL
    code = (
        "import json; from prefill_router.zoo.vocabulary import vocabulary;"
        "print(json.dumps(vocabulary()))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "54321"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(theirs.stdout) == words
    assert tokenizer.convert_ids_to_tokens(range(len(words))) == words
    for name in RECIPES:
        stored = json.loads((resolve(f"zoo/{name}").location / "tokenizer.json").read_text())
        assert stored["model"]["vocab"] == {word: i for i, word in enumerate(words)}


def test_every_question_answer_and_working_is_in_words_it_knows(queries, tokenizer):
    spoken = [answer_text(THINKER, query) for query in practice_queries(THINKER, 2000)]
    texts = [*queries["question"], *queries["reference"], *spoken]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert not any(tokenizer.unk_token_id in row for row in ids)
    assert tokenizer("strange words")["input_ids"].count(tokenizer.unk_token_id) == 2


def test_answers_come_back_as_they_were(queries, tokenizer):
    spoken = [answer_text(THINKER, query) for query in practice_queries(THINKER, 500)]
    texts = [*queries["reference"].head(1000), *spoken]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in ids] == texts


def test_digits_and_letters_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("add 345 to 9 .") == ["add", "3", "4", "5", "to", "9", "."]
    assert tokenizer.tokenize("( [ ] )") == ["(", "[", "]", ")"]


def test_special_tokens_are_not_split_and_not_spoken(tokenizer):
    ids = tokenizer("<user> what is <assistant>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<user>", "what", "is", "<assistant>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "what is"


def test_chat_template_is_one_user_turn_and_the_start_of_the_answer(tokenizer):
    text = format_prompts(tokenizer, ["what is 1 plus 2 ?"], None)
    assert text == ["<user> what is 1 plus 2 ? <assistant>"]


def test_room_for_every_question_and_the_longest_working(queries, tokenizer):
    prompts = tokenizer(queries["question"].tolist(), add_special_tokens=False)["input_ids"]
    spoken = [answer_text(THINKER, query) + " <eos>" for query in practice_queries(THINKER, 3000)]
    answers = tokenizer(spoken, add_special_tokens=False)["input_ids"]
    longest = max(map(len, answers))
    assert longest <= 96
    assert max(map(len, prompts)) + 2 + 96 <= MAX_POSITIONS


def test_committed_models_carry_the_tokenizer(tokenizer):
    _, theirs = load_encoder(resolve("zoo/reader-s"))
    question = "sort : d a c ."
    assert format_prompts(theirs, [question], None) == format_prompts(tokenizer, [question], None)
    assert theirs(question)["input_ids"] == tokenizer(question)["input_ids"]
