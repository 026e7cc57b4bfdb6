import math

import numpy as np
import pytest
import tiny_models
import torch
from architectures import SHAPE
from tiny_models import stacked, states_of
from transformers import AutoModel, Phi3Config

from prefill_router.errors import InputError
from prefill_router.extraction.batches import default_budget, rope_switch
from prefill_router.extraction.model_layout import all_states
from prefill_router.extraction.prompts import Prompts

QUESTIONS = tiny_models.questions()


def alone(model, ids):
    """Return (L + 1, T, D) hidden states of one prompt: no batch, no padding, no mask."""
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return torch.cat(output.hidden_states).numpy()


def expected(model, prompts):
    states = [alone(model, ids) for ids in prompts]
    pooled = [[state[:, -1], state.mean(axis=1)] for state in states]
    return np.array(pooled).transpose(2, 1, 0, 3)  # (N, poolings, layers, D) -> (layers, ..)


def words(tokenizer, text):
    return [tokenizer.convert_tokens_to_ids(word) for word in text.split()]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("name", "template"), [("qwen3", tiny_models.TEMPLATE), ("gpt2", None), ("roberta", None)]
)
def test_states_are_those_of_an_unpadded_pass(name, side, template):
    model, tokenizer = tiny_models.model(name), tiny_models.tokenizer(side, template)
    framed = "<user> {} <assistant>" if template else "{}"
    prompts = [words(tokenizer, framed.format(question)) for question in QUESTIONS]
    got = tiny_models.read(model, tokenizer, QUESTIONS)
    assert got.n_tokens.tolist() == [len(ids) for ids in prompts]
    np.testing.assert_allclose(stacked(got), expected(model, prompts), rtol=1e-4, atol=1e-5)
    if template:  # every prompt ends in the same token
        assert np.ptp(got.states(0, "last"), axis=0).max() == 0 < np.ptp(got.states(0, "mean"))


def test_longrope_turns_short_prompts_as_if_they_were_alone():
    """Its factors are those of the longest prompt of a batch."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    config = Phi3Config(**SHAPE, original_max_position_embeddings=8, rope_parameters=rope)
    torch.manual_seed(0)
    model, tokenizer = AutoModel.from_config(config).eval(), tiny_models.tokenizer()
    assert rope_switch(model.config) == 8
    assert rope_switch(tiny_models.model("phi3").config) == math.inf
    questions = ["w1 w2 w3 w4 w5 w6 w7 w8", "w2 w4 w6 w8 w1 w3 w5 w7 w9"]
    want = expected(model, [words(tokenizer, question) for question in questions])
    got = states_of(model, tokenizer, questions)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    together = Prompts(tokenizer, 30).batch(questions)
    mixed = all_states(model, together.tokens, together.lengths)[3][0, 7].numpy()
    assert np.abs(mixed - want[3, 0, 0]).max() > 1e-3  # what a batch of both would have given


def test_a_model_left_in_training_mode_reads_without_dropout():
    model, tokenizer = tiny_models.model("gpt2"), tiny_models.tokenizer()
    want = states_of(model, tokenizer, QUESTIONS)
    model.train()
    again = states_of(model, tokenizer, QUESTIONS, token_budget=8192)  # as by default
    np.testing.assert_array_equal(again, want)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [("all", [0, 1, 2, 3]), ("upper", [2, 3]), ([3, 0, 3], [0, 3]), ([1], [1])],
)
def test_layers_and_poolings_are_selections_of_all(layers, chosen):
    model, tokenizer = tiny_models.model("qwen3"), tiny_models.tokenizer()
    full = states_of(model, tokenizer, QUESTIONS)
    part = tiny_models.read(model, tokenizer, QUESTIONS, layers=layers, poolings=["mean"])
    assert (part.layers, part.poolings) == (chosen, ["mean"])
    np.testing.assert_array_equal(stacked(part), full[chosen][:, [1]])


def test_the_token_budget_is_found(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for bytes_per_token, tokens in ((1, 8192), (20_000, 2048), (70_000, 1024), (10**9, 1024)):
        assert default_budget(cpu, bytes_per_token) == tokens
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 10**9, 8 * 10**9))
    for bytes_per_token, tokens in ((1, 16384), (10**6, 512), (10**10, 1)):
        assert default_budget(gpu, bytes_per_token) == tokens


def test_odd_questions():
    """One token, other scripts, emoji, a very long one, and nothing but white space."""
    tokenizer = tiny_models.byte_tokenizer(tiny_models.TEMPLATE)
    model = tiny_models.model("llama", vocabulary=len(tokenizer), positions=512)
    questions = ["a", "", " \n", "你好，世界", "سؤال", "👩‍🚀🚀 e\u0301", "x" * 400]
    got = tiny_models.read(model, tokenizer, questions)
    framed = [f"<user> {question} <assistant>" for question in questions]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in framed]
    assert [tokenizer.decode(ids) for ids in prompts] == framed
    np.testing.assert_allclose(stacked(got), expected(model, prompts), rtol=1e-4, atol=2e-5)
    asked = [questions[0], *questions[3:]]  # the others have no token of the user's
    states = states_of(model, tokenizer, asked, poolings=["user_mean"])
    for row, question in enumerate(asked):
        before = len(tokenizer("<user>", add_special_tokens=False)["input_ids"])
        after = len(tokenizer(f"<user> {question}", add_special_tokens=False)["input_ids"])
        prompt = tokenizer(f"<user> {question} <assistant>", add_special_tokens=False)["input_ids"]
        want = alone(model, prompt)[:, before + 1 : after].mean(axis=1)
        np.testing.assert_allclose(states[:, 0, row], want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [4]}, r"0\.\.3"),
        ({"layers": []}, r"0\.\.3"),
        ({"layers": "uper"}, "Did you mean 'upper'"),
        ({"poolings": ["avg"]}, "pooling 'avg' is unknown"),
        ({"poolings": []}, "poolings is empty"),
        ({"token_budget": 0}, "at least 1"),
        ({"max_tokens": 31}, "at most 30"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(InputError, match=message):
        tiny_models.read(tiny_models.model("llama"), tiny_models.tokenizer(), ["w1"], **settings)
