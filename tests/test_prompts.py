import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from prefill_router.errors import InputError
from prefill_router.prompts import batches, format_prompts, token_limit, tokenize

CHAT = tiny_models.TEMPLATE


def decoded(tokenizer, ids):
    return [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in ids]


def test_a_prompt_is_one_user_turn_and_the_generation_prompt():
    tokenizer = tiny_models.tokenizer(template=CHAT)
    assert format_prompts(tokenizer, ["w1 w2"]) == ["<user> w1 w2 <assistant>"]
    thinking = format_prompts(tokenizer, ["w1"], {"thinking": True})
    assert thinking == ["<user> w1 w0 <assistant>"]
    assert format_prompts(tiny_models.tokenizer(), ["w1  w2"]) == ["w1  w2"]


def test_a_template_in_a_question_is_text():
    tokenizer = tiny_models.tokenizer(template=CHAT)
    assert format_prompts(tokenizer, ["{{ 1 + 1 }}"]) == ["<user> {{ 1 + 1 }} <assistant>"]


@pytest.mark.parametrize("bad", [None, 3, b"w1", float("nan")])
def test_questions_must_be_text(bad):
    with pytest.raises(InputError, match=r"Question 1 is .* not text"):
        format_prompts(tiny_models.tokenizer(), ["w1", bad])


def test_no_question_and_no_token():
    with pytest.raises(InputError, match="the list is empty"):
        tokenize(tiny_models.tokenizer(), [], 30)
    with pytest.raises(InputError, match=r"Question 1 .* no token"):
        tokenize(tiny_models.tokenizer(), ["w1", " "], 30)


@pytest.mark.parametrize(
    ("template", "tokens"), [(None, "<eos> w1"), (CHAT, "<user> w1 <assistant>")]
)
def test_special_tokens_come_once(template, tokens):
    """Added by the tokenizer to bare text, left to the template where there is one."""
    tokenizer = tiny_models.tokenizer(template=template)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    assert decoded(tokenizer, tokenize(tokenizer, ["w1"], 30)[0]) == [tokens]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_limits_saved_with_a_tokenizer_are_not_used(side):
    tokenizer = tiny_models.tokenizer(side, limit=3)
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    ids, n_truncated = tokenize(tokenizer, ["w1 w2 w3 w4", "w5"], 30)
    assert decoded(tokenizer, ids) == ["w1 w2 w3 w4", "w5"]
    assert n_truncated == 0


def test_long_prompts_are_refused_or_cut_and_counted():
    tokenizer = tiny_models.tokenizer()
    questions = ["w1 w2 w3", "w1 w2", "w1 w2 w3 w4"]
    with pytest.raises(InputError, match=r"2 of 3 .* longer than 2 .* question 2 \('w1 w2 w3 w4"):
        tokenize(tokenizer, questions, 2)
    left, n_left = tokenize(tokenizer, questions, 2, "left")
    right, n_right = tokenize(tokenizer, questions, 2, "right")
    assert decoded(tokenizer, left) == ["w2 w3", "w1 w2", "w3 w4"]
    assert decoded(tokenizer, right) == ["w1 w2"] * 3
    assert n_left == n_right == 2
    assert tokenize(tokenizer, questions, 4)[1] == 0


def test_the_limit_is_the_stricter_of_model_and_tokenizer():
    model = tiny_models.model("gpt2")
    assert token_limit(model, tiny_models.tokenizer(limit=30)) == 30
    assert token_limit(model, tiny_models.tokenizer(limit=int(1e30))) == 32


@given(st.lists(st.integers(1, 40), min_size=1, max_size=50), st.integers(0, 100))
def test_batches_hold_each_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths)
    found = list(batches(lengths, budget))
    assert sorted(np.concatenate(found)) == list(range(len(lengths)))
    for rows in found:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= budget
    shortest = [lengths[rows].min() for rows in found]
    longest = [lengths[rows].max() for rows in found]
    assert all(low >= high for low, high in zip(shortest[:-1], longest[1:], strict=True))
