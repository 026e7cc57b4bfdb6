import pytest
import tiny_models

from prefill_router.errors import InputError
from prefill_router.extraction.templates import format_prompts

CHAT = tiny_models.TEMPLATE


def test_a_prompt_is_one_user_turn_and_the_generation_prompt():
    tokenizer = tiny_models.tokenizer(template=CHAT)
    assert format_prompts(tokenizer, ["w1 w2"]) == ["<user> w1 w2 <assistant>"]
    thinking = format_prompts(tokenizer, ["w1"], {"thinking": True})
    assert thinking == ["<user> w1 w0 <assistant>"]
    assert format_prompts(tiny_models.tokenizer(), ["w1  w2"]) == ["w1  w2"]


def test_a_template_in_a_question_is_text():
    tokenizer = tiny_models.tokenizer(template=CHAT)
    assert format_prompts(tokenizer, ["{{ 1 + 1 }}"]) == ["<user> {{ 1 + 1 }} <assistant>"]


def test_a_template_that_writes_the_date_writes_the_same_on_any_day():
    template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0]['content'] }}"
    tokenizer = tiny_models.tokenizer(template=template)
    assert format_prompts(tokenizer, ["w1"]) == ["2025-01-01 w1"]
    assert format_prompts(tiny_models.tokenizer(), ["w1"], template=template) == ["2025-01-01 w1"]


@pytest.mark.parametrize("bad", [None, 3, b"w1", float("nan"), "w2 \ud83d"])
def test_questions_must_be_text(bad):
    said = "surrogate pair at character 3" if isinstance(bad, str) else "not text"
    with pytest.raises(InputError, match=rf"Question 1 .*{said}"):
        format_prompts(tiny_models.tokenizer(), ["w1", bad])


@pytest.mark.parametrize("template", ["{{ messages", "{{ raise_exception('no') }}"])
def test_a_template_that_cannot_be_used(template):
    with pytest.raises(InputError, match="template cannot be used"):
        format_prompts(tiny_models.tokenizer(), ["w1"], template=template)
