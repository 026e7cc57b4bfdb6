import pytest
import tiny_models

from prefill_router.answers.generation import Decoding, generate
from prefill_router.answers.ledger import Reply
from prefill_router.answers.local import ask_model
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve

QUESTIONS = tiny_models.questions(20)
SHORT = Decoding(max_new_tokens=6)


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
    with pytest.raises(InputError, match="Question 1 is None"):
        ask_model(source, ["w1", None])
    with pytest.raises(InputError, match="There is no question"):
        ask_model(source, [])


def test_sampled_chunks_do_not_share_a_random_stream(source):
    decoding = Decoding(max_new_tokens=6, temperature=5.0)
    questions = ["w1 w2 w3"] + ["w1 w2"] * 8
    replies = ask_model(source, questions, decoding, chunk_size=5)
    assert replies == ask_model(source, questions, decoding, chunk_size=5)
    assert replies[1:5] != replies[5:]
