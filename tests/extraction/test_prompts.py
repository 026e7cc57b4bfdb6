import pytest
import tiny_models
import torch
from architectures import SHAPE
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel

from prefill_router.errors import InputError
from prefill_router.extraction import prompts
from prefill_router.extraction.prompts import COUNTED_AT_ONCE, Prompts, format_prompts, token_limit

CHAT = tiny_models.TEMPLATE


def decoded(tokenizer, ids):
    return [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in ids]


def test_no_question_and_no_token():
    prompts = Prompts(tiny_models.tokenizer(), 30)
    with pytest.raises(InputError, match="the list is empty"):
        prompts.count([])
    for nothing in ("", " ", "\n\t"):
        with pytest.raises(InputError, match=r"Question 1 .* no token"):
            prompts.count(["w1", nothing])
    # a template always leaves something to read
    framed = Prompts(tiny_models.tokenizer(template=CHAT), 30)
    assert framed.count(["w1", "", " "]).tolist() == [3, 2, 2]


@pytest.mark.parametrize(
    ("template", "tokens"), [(None, "<eos> w1"), (CHAT, "<user> w1 <assistant>")]
)
def test_special_tokens_come_once(template, tokens):
    """Added by the tokenizer to bare text, left to the template where there is one."""
    tokenizer = tiny_models.tokenizer(template=template)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    assert decoded(tokenizer, Prompts(tokenizer, 30).ids(["w1"])) == [tokens]


@pytest.mark.parametrize("written", ["", "<eos> ", "<eos> <eos> "])
def test_the_first_token_never_stands_twice(written):
    """Whatever template and tokenizer add, and whatever is asked of its tokens besides."""
    tokenizer = tiny_models.tokenizer(template=written + CHAT)
    tokenizer.bos_token = "<eos>"
    batch = Prompts(tokenizer, 30).batch(["w1", "w2 <eos> <eos>"], find_user=True)
    shown = decoded(tokenizer, batch.tokens.tolist())
    begin = written.split(" ")[0] + " " if written else ""
    assert shown[1] == f"{begin}<user> w2 <eos> <eos> <assistant>"
    assert batch.tokens[0, batch.user[0, 0]] == tokenizer.convert_tokens_to_ids("w1")


@pytest.mark.parametrize(
    ("template", "given", "said"),
    [
        (None, None, "2 tokens, without a chat template:\n<eos> w1"),
        (CHAT, None, "3 tokens, with a chat template:\n<user> w1 <assistant>"),
        (CHAT, "w9 {{ messages[0].content }}", "2 tokens, with a chat template:\nw9 w1"),
    ],
)
def test_what_is_read_is_shown(template, given, said):
    tokenizer = tiny_models.tokenizer(template=template)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    assert Prompts(tokenizer, 30, template=given).shown("w1") == said


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_limits_saved_with_a_tokenizer_are_not_used(side):
    tokenizer = tiny_models.tokenizer(side, limit=3)
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    prompts = Prompts(tokenizer, 30)
    assert decoded(tokenizer, prompts.ids(["w1 w2 w3 w4", "w5"])) == ["w1 w2 w3 w4", "w5"]
    assert prompts.count(["w1 w2 w3 w4", "w5"]).tolist() == [4, 1]


def test_long_prompts_are_refused_or_cut_and_counted():
    tokenizer = tiny_models.tokenizer()
    questions = ["w1 w2 w3", "w1 w2", "w1 w2 w3 w4"]
    with pytest.raises(InputError, match=r"2 of 3 .* longer than 2 .* question 2 \('w1 w2 w3 w4"):
        Prompts(tokenizer, 2).count(questions)
    left, right = Prompts(tokenizer, 2, "left"), Prompts(tokenizer, 2, "right")
    assert decoded(tokenizer, left.ids(questions)) == ["w2 w3", "w1 w2", "w3 w4"]
    assert decoded(tokenizer, right.ids(questions)) == ["w1 w2"] * 3
    # what a prompt costs is its length before it was cut
    assert left.count(questions).tolist() == right.count(questions).tolist() == [3, 2, 4]
    assert Prompts(tokenizer, 4).count(questions).tolist() == [3, 2, 4]


def test_counting_goes_on_beyond_one_chunk():
    questions = ["w1 " * (1 + i % 3) for i in range(2 * COUNTED_AT_ONCE + 5)]
    counts = Prompts(tiny_models.tokenizer(), 30).count(questions)
    assert counts.tolist() == [1 + i % 3 for i in range(len(questions))]
    with pytest.raises(InputError, match=f"question {COUNTED_AT_ONCE + 1} "):
        Prompts(tiny_models.tokenizer(), 30).count(
            ["w1"] * (COUNTED_AT_ONCE + 1) + ["w1 " * 40] + ["w1"] * 9
        )


@pytest.mark.parametrize(("settings", "message"), [((0,), "at least 1"), ((9, "top"), "'top'")])
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(InputError, match=message):
        Prompts(tiny_models.tokenizer(), *settings)


def test_a_given_template_stands_in_for_the_tokenizers():
    given = "{{ messages[0]['content'] }} w9"
    for tokenizer in (tiny_models.tokenizer(), tiny_models.tokenizer(template=CHAT)):
        prompts = Prompts(tokenizer, 30, template=given)
        assert decoded(tokenizer, prompts.ids(["w1 w2"])) == ["w1 w2 w9"]


@pytest.mark.parametrize("pad", [True, False])
def test_a_batch_is_padded_on_the_right(pad):
    tokenizer = tiny_models.tokenizer("left", pad=pad)
    batch = Prompts(tokenizer, 30).batch(["w1", "w2 w3"])
    assert batch.lengths.tolist() == [1, 2]
    assert batch.user.tolist() == [[0, 1], [0, 2]]
    padding = "<pad>" if pad else "<eos>"
    assert decoded(tokenizer, batch.tokens.tolist()) == [f"w1 {padding}", "w2 w3"]


def user_words(tokenizer, prompts, questions):
    batch = prompts.batch(questions, find_user=True)
    return [
        " ".join(tokenizer.convert_ids_to_tokens(tokens[start:stop].tolist()))
        for tokens, (start, stop) in zip(batch.tokens, batch.user.tolist(), strict=True)
    ]


def test_the_users_own_tokens():
    """Also where the template says the same words, and where special tokens are added."""
    questions = ["w1 w2", "w0", "user", "<user>", "w3"]
    words = ["w1 w2", "w0", "<unk>", "<user>", "w3"]
    tokenizer = tiny_models.tokenizer(template=CHAT)
    prompts = Prompts(tokenizer, 30, template_kwargs={"thinking": True})
    assert user_words(tokenizer, prompts, questions) == words
    trimmed = CHAT.replace("message['content']", "message['content'] | trim")
    prompts = Prompts(tokenizer, 30, template=trimmed)
    assert user_words(tokenizer, prompts, [f" {q}\n" for q in questions]) == words
    bare = tiny_models.tokenizer()
    bare.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A <eos>", special_tokens=[("<eos>", 1)]
    )
    assert user_words(bare, Prompts(bare, 30), questions) == words


def test_the_users_own_tokens_of_a_cut_prompt():
    tokenizer = tiny_models.tokenizer(template=CHAT)
    questions = ["w1 w2 w3", "w4"]
    left, right = Prompts(tokenizer, 3, "left"), Prompts(tokenizer, 3, "right")
    assert user_words(tokenizer, left, questions) == ["w2 w3", "w4"]
    assert user_words(tokenizer, right, questions) == ["w1 w2", "w4"]


@pytest.mark.parametrize(
    ("side", "said"), [("left", "1 tokens after"), ("right", "1 tokens before")]
)
def test_what_cuts_every_question_off_is_refused(side, said):
    """All prompts would be the template's beginning or end alone."""
    prompts = Prompts(tiny_models.tokenizer(template=CHAT), 1, side)
    with pytest.raises(InputError, match=f"writes {said} a question, and max_tokens is 1: all"):
        prompts.count(["w1 w2", "w3"])
    bare = Prompts(tiny_models.tokenizer(), 1, side)
    assert bare.count(["w1 w2", "w3"]).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("template", "question", "message"),
    [
        ("{{ messages[0]['content'] | lower }}", "w1", "alters or repeats"),
        ("{{ messages[0]['content'] * 2 }}", "w1", "alters or repeats"),
        ("{{ messages[0]['content'] | replace('w2', 'w3') }}", "w1 w2", "alters or repeats"),
        (CHAT, " ", "no token of its own"),
    ],
)
def test_user_tokens_that_cannot_be_found(template, question, message):
    prompts = Prompts(tiny_models.tokenizer(), 30, template=template)
    with pytest.raises(InputError, match=message):
        prompts.batch([question], find_user=True)


@pytest.mark.parametrize(
    ("name", "said", "limit"),
    [("gpt2", 30, 30), ("gpt2", 10**30, 32), ("mpt", 10**30, 32), ("mamba", 10**30, 1_000_000)],
)
def test_the_limit_is_the_stricter_of_model_and_tokenizer(name, said, limit):
    """Also where a config calls it otherwise, or has none."""
    assert token_limit(tiny_models.model(name), tiny_models.tokenizer(limit=said)) == limit


@pytest.mark.parametrize("kind", ["roberta", "ibert", "mpnet", "bert"])
@pytest.mark.parametrize("is_stated", [True, False])
def test_the_limit_without_a_stated_one_is_what_the_positions_allow(kind, is_stated, monkeypatch):
    """Of 32, RoBERTa and its like with padding 1 give tokens those from 2 on."""
    shape = SHAPE | {"pad_token_id": 1, "hidden_size": 16}
    model = AutoModel.from_config(AutoConfig.for_model(kind, **shape)).eval()
    if not is_stated:
        monkeypatch.setattr(prompts, "POSITIONS", ("no_such_name",))
    limit = token_limit(model, tiny_models.tokenizer(limit=int(1e30)))
    assert limit == (32 if kind == "bert" else 30)
    with torch.inference_mode():
        assert model(torch.full((1, limit), 7)).last_hidden_state.shape[1] == limit
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, limit + 1), 7))


# -- chat templates


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


PARTS = "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %} {% endfor %}"
TALK = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}]


@pytest.mark.parametrize(
    "template",
    [
        PARTS,
        "{% if messages[0].content is string %}{{ raise_exception('no') }}{% endif %}" + PARTS,
        PARTS.replace("{{ c.text }}", "{% if c.type == 'text' %}{{ c['text'] }}{% endif %}"),
    ],
)
def test_a_template_that_takes_a_list_of_parts_is_given_one(template):
    """As those of models that also see images do."""
    tokenizer = tiny_models.tokenizer(template=template)
    assert format_prompts(tokenizer, ["w1 w2", TALK]) == ["w1 w2 ", "w1 w2 "]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages", "cannot be used: "),
        ("{{ raise_exception('no') }}", "cannot be used: no"),
        ("{{ 1 / 0 }}", "cannot be used: division by zero"),
        ("version https://git-lfs.github.com/spec/v1", "leaves out a message"),
        ("{{ messages | length }}", "leaves out a message"),
        ("{{ messages[0].content | length }}", "leaves out a message"),
        ("{{ messages[0].content[:5000] }}", "leaves out a message"),
        ("{% for part in messages[0].content %}w{{ part.type }}{% endfor %}", "leaves out a"),
        ("{% for m in messages if m.role == 'human' %}{{ m.content }}{% endfor %}", "leaves out a"),
        ({"tools": "{{ messages[0].content }}"}, "cannot be used: "),
    ],
)
def test_a_template_that_keeps_the_question_from_the_model(template, said):
    """It is named, as soon as an encoder is opened, whether given or the tokenizer's own."""
    own = tiny_models.tokenizer(template=template)
    own.name_or_path = "path/to/encoder"
    given = [(tiny_models.tokenizer(), "that was given")] if isinstance(template, str) else []
    for tokenizer, whose in [(own, "of path/to/encoder"), *given]:
        how = {} if tokenizer is own else {"template": template}
        with pytest.raises(InputError, match=rf"The chat template {whose} .*{said}.* It begins"):
            tiny_models.read(tiny_models.model("qwen3"), tokenizer, ["w1"], **how)


def test_no_message_of_a_conversation_is_left_out():
    first = tiny_models.tokenizer(template="{{ messages[0].content }}")
    assert format_prompts(first, ["w1 w2"]) == ["w1 w2"]
    with pytest.raises(InputError, match="leaves out a message"):
        format_prompts(first, ["w1", TALK])
    lower = tiny_models.tokenizer(template="{{ messages[0].content | lower }}")
    assert format_prompts(lower, ["W1"]) == ["w1"]
