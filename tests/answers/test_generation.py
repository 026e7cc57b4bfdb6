import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from prefill_router.answers import generation
from prefill_router.answers.generation import Decoding, ask_model, generate
from prefill_router.answers.ledger import Reply
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve

QUESTIONS = tiny_models.questions(20)
SHORT = Decoding(max_new_tokens=6)


def causal(name, seed=0):
    return tiny_models.model(name, AutoModelForCausalLM, seed)


def greedy(model, ids, ends, max_new_tokens):
    """Continue one prompt by a loop over argmax: no batch, no padding, no cache."""
    tokens = list(ids)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in ends:
            break
    return tokens[len(ids) :]


@pytest.mark.parametrize(("side", "pad"), [("left", True), ("right", True), ("right", False)])
@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt2", "gpt_neox"])
def test_batched_answers_are_those_of_a_loop_over_one_prompt(name, side, pad):
    """Also without a padding token, where transformers guesses a mask that hides no padding."""
    template = tiny_models.TEMPLATE if name.startswith("gpt") else None
    model, tokenizer = causal(name), tiny_models.tokenizer(side, template, pad=pad)
    # stop at several tokens, so that answers end at different lengths
    ends = [1, 7, 9, 12, 20]
    model.generation_config.eos_token_id = ends
    framed = "<user> {} <assistant>" if template else "{}"
    want = [
        greedy(model, tokenizer.convert_tokens_to_ids(framed.format(text).split()), ends, 6)
        for text in QUESTIONS
    ]
    assert len({len(tokens) for tokens in want}) > 1
    for batch_size in (1, 7, 20):
        answers, n_tokens = generate(model, tokenizer, QUESTIONS, SHORT, batch_size)
        assert n_tokens.tolist() == [len(tokens) for tokens in want]
        assert answers == [tokenizer.decode(ids, skip_special_tokens=True) for ids in want]


def test_tags_of_thinking_stay_in_an_answer_where_they_are_special_tokens(monkeypatch):
    model, tokenizer = causal("qwen3"), tiny_models.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|x|>"]})
    ends = tokenizer.eos_token
    ids = tokenizer.convert_tokens_to_ids(["[THINK]", "w1", "[/THINK]", "<|x|>", "w2", ends])
    monkeypatch.setattr(generation, "_continue", lambda *_: torch.tensor([ids]))
    [answer], _ = generate(model, tokenizer, QUESTIONS[:1], SHORT)
    assert answer.split() == ["[THINK]", "w1", "[/THINK]", "w2"]


def test_the_models_own_generation_settings_do_not_bend_greedy_decoding():
    model, tokenizer = causal("qwen3"), tiny_models.tokenizer()
    plain = generate(model, tokenizer, QUESTIONS, SHORT)[0]
    own = {"do_sample": True, "temperature": 3.0, "repetition_penalty": 5.0, "num_beams": 3}
    own |= {"no_repeat_ngram_size": 1, "min_new_tokens": 6}
    model.generation_config = own = GenerationConfig(eos_token_id=1, **own)
    assert generate(model, tokenizer, QUESTIONS, SHORT)[0] == plain
    assert model.generation_config is own


def test_sampling_follows_the_models_distribution_and_the_seed():
    model, tokenizer = causal("qwen3"), tiny_models.tokenizer()
    decoding = Decoding(max_new_tokens=1, temperature=2.0, seed=3)
    before = torch.random.get_rng_state()
    answers, _ = generate(model, tokenizer, ["w1 w2"] * 4000, decoding, 4000)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generate(model, tokenizer, ["w1 w2"] * 4000, decoding, 4000)[0] == answers
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(["w1", "w2"])])
    with torch.no_grad():
        p = (model(ids).logits[0, -1] / 2.0).softmax(-1).numpy()
    for word in ("w0", "w5", "w19"):
        share = np.mean([answer == word for answer in answers])
        expected = p[tokenizer.convert_tokens_to_ids(word)]
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9


def test_what_cannot_be_generated_is_refused():
    model, tokenizer = causal("gpt2"), tiny_models.tokenizer()
    with pytest.raises(InputError, match="longer than 2 tokens"):
        generate(model, tokenizer, ["w1 w2 w3"], Decoding(max_new_tokens=28))
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="eos_token_id"):
        generate(model, tokenizer, ["w1"], SHORT)
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(InputError, match="leaves out a message"):
        generate(causal("gpt2"), tokenizer, ["w1"], SHORT)
    for setting in ({"max_new_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(InputError, match=next(iter(setting))):
            Decoding(**setting)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return resolve(str(tiny_models.save(tmp_path_factory.mktemp("target"), "qwen3")))


def test_replies_are_the_models_answers_in_order(source):
    texts, n_tokens = generate(*load_target(source), QUESTIONS, SHORT)
    wanted = [
        Reply(text, None, n, "length" if n == 6 else "stop", None)
        for text, n in zip(texts, n_tokens.tolist(), strict=True)
    ]
    for chunk_size in (3, 2048):
        assert ask_model(source, QUESTIONS, SHORT, chunk_size=chunk_size) == wanted


def test_sampled_chunks_do_not_share_a_random_stream(source):
    decoding = Decoding(max_new_tokens=6, temperature=5.0)
    questions = ["w1 w2 w3"] + ["w1 w2"] * 8
    replies = ask_model(source, questions, decoding, chunk_size=5)
    assert replies == ask_model(source, questions, decoding, chunk_size=5)
    assert replies[1:5] != replies[5:]
