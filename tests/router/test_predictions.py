from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch

from prefill_router.errors import InputError
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.prefill import EncoderSpec
from prefill_router.extraction.sources import resolve
from prefill_router.router.predictions import QueryReader

PLACES = [(3, "mean"), (1, "last"), (3, "last"), (0, "mean")]
QUESTIONS = tiny_models.questions(9)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder")
    return resolve(tiny_models.save(directory, template=tiny_models.TEMPLATE))


def read_by(source, places=PLACES, **how):
    return QueryReader(EncoderSpec(source, EncoderInfo(source.name, None, "", **how)), places)


@pytest.fixture(scope="module")
def reader(source):
    return read_by(source)


@pytest.fixture(scope="module")
def expected(source, reader):
    """States of whole passes, one prompt at a time and unpadded, in the order of the places."""
    model, _ = load_encoder(source)
    pools = {"last": lambda h: h[-1], "mean": lambda h: h.mean(axis=0)}
    columns = []
    for tokens in reader.loaded[0].prompts.ids(QUESTIONS):
        with torch.inference_mode():
            hidden = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        columns.append([pools[pooling](hidden[layer][0].numpy()) for layer, pooling in PLACES])
    return np.stack(columns, axis=1)


def test_states_are_those_of_the_plain_way(reader, expected):
    states, n_tokens = reader.read(QUESTIONS)
    np.testing.assert_allclose(states, expected, atol=1e-5)
    assert n_tokens.tolist() == [len(question.split()) + 2 for question in QUESTIONS]
    for place, question in enumerate(QUESTIONS):
        alone, length = reader.read([question])
        np.testing.assert_allclose(alone[:, 0], expected[:, place], atol=1e-5)
        assert length.tolist() == n_tokens[place : place + 1].tolist()


def test_small_batches_change_nothing(source, expected):
    reader = read_by(source)
    reader.loaded[0].layout = replace(reader.loaded[0].layout, token_budget=20)
    np.testing.assert_allclose(reader.read(QUESTIONS)[0], expected, atol=1e-5)


def test_messages_are_rendered_by_the_chat_template(reader, source):
    text, n_text = reader.read(["w1 w2"])
    messages, n_messages = reader.read([[{"role": "user", "content": "w1 w2"}]])
    assert (text == messages).all() and n_text == n_messages
    talk = [{"role": role, "content": "w3"} for role in ("user", "assistant", "user")]
    rendered = load_encoder(source)[1].apply_chat_template(talk, add_generation_prompt=True)
    assert reader.read([talk, "w1"])[1].tolist() == [len(rendered["input_ids"]), 3]


def test_queries_that_are_none_are_refused(reader):
    image = {"role": "user", "content": [{"type": "image"}]}
    for queries, match in (
        ([], "the list is empty"), ([[]], "has no message"), ([["w1"]], "Message 0 is 'w1'"),
        ([[{"role": "user"}]], "for 'role' and 'content'"), ([None], "not text"),
        (["w1", [image]], "for 'role' and 'content'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            reader.read(queries)


def test_a_conversation_needs_a_template(tmp_path):
    reader = read_by(resolve(tiny_models.save(tmp_path)), [(1, "mean")])
    one = reader.read([[{"role": "user", "content": "w1 w2"}]])[0]
    assert (one == reader.read(["w1 w2"])[0]).all()
    with pytest.raises(InputError, match="has no chat template"):
        reader.read([[{"role": "user", "content": "w1"}] * 2])


def test_long_queries_are_refused_or_cut_and_their_length_is_told(source):
    with pytest.raises(InputError, match="longer than 4 tokens"):
        read_by(source, max_tokens=4).read(["w1 w2 w3"])
    cutting = read_by(source, max_tokens=4, truncation="left")
    assert cutting.read(["w1 w2 w3"])[1].tolist() == [5]
    assert cutting.read(["w1 w2 w3", "w1"])[1].tolist() == [5, 3]


def test_threads_share_a_reader(reader, expected):
    def read(place):
        return reader.read([QUESTIONS[place % 9]])[0][:, 0]

    with ThreadPoolExecutor(4) as pool:
        for place, states in enumerate(pool.map(read, range(45))):
            np.testing.assert_allclose(states, expected[:, place % 9], atol=1e-5)


def test_user_poolings_read_one_question(source):
    reader = read_by(source, [(2, "user_mean")])
    assert np.isfinite(reader.read(["w1 w2"])[0]).all()
    with pytest.raises(InputError, match="give a text instead of messages"):
        reader.read([[{"role": "user", "content": "w1"}]])
