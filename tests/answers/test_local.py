import pandas as pd
import pytest
import tiny_models

from prefill_router.answers.generation import Decoding, generate
from prefill_router.answers.local import collect
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve

QUESTIONS = tiny_models.questions(20)
SHORT = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return resolve(str(tiny_models.save(tmp_path_factory.mktemp("target"), "qwen3")))


def test_collect_grades_each_answer_against_its_own_reference(source):
    answers, n_tokens = generate(*load_target(source), QUESTIONS, SHORT)
    references = [answer if i % 3 else "else" for i, answer in enumerate(answers)]
    for chunk_size in (3, 2048):
        table = collect(source, QUESTIONS, references, decoding=SHORT, chunk_size=chunk_size)
        assert table["answer"].tolist() == answers
        assert table["output_tokens"].tolist() == n_tokens.tolist()
        assert table["is_correct"].tolist() == [int(i % 3 > 0) for i in range(20)]
    lenient = collect(source, QUESTIONS, references, lambda answer, reference: True, SHORT)
    assert lenient["is_correct"].all()
    with pytest.raises(InputError, match="20 questions, but 1 references"):
        collect(source, QUESTIONS, ["w1"])
    with pytest.raises(InputError, match="Question 1 is None"):
        collect(source, ["w1", None], ["w1", "w1"])
    with pytest.raises(InputError, match="There is no question"):
        collect(source, [], [])


def test_sampled_chunks_do_not_share_a_random_stream(source):
    decoding = Decoding(max_new_tokens=6, temperature=5.0)
    questions = ["w1 w2"] * 8 + ["w1 w2 w3"]
    table = collect(source, questions[::-1], ["w1"] * 9, decoding=decoding, chunk_size=5)
    again = collect(source, questions[::-1], ["w1"] * 9, decoding=decoding, chunk_size=5)
    pd.testing.assert_frame_equal(table, again)
    assert table["answer"].tolist()[1:5] != table["answer"].tolist()[5:]
