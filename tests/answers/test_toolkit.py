import numpy as np
import pandas as pd
import pytest
import yaml

from prefill_router.answers.targets import Endpoint
from prefill_router.answers.toolkit import import_pool, write_toolkit_labels
from prefill_router.config import Loop
from prefill_router.errors import InputError
from prefill_router.labels import load_labels
from prefill_router.validation import read_mapping

MODEL = {
    "name": "small", "litellm_model": "openrouter/vendor/small-1",
    "cost_per_m_input_tokens": 0.05, "cost_per_m_output_tokens": 0.2,
}  # fmt: skip


def pool(tmp_path, *models):
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump({"routing": {"method": "prefill"}, "models": [*models]}))
    return path


def labels_of(tmp_path, text):
    (tmp_path / "l.csv").write_text(text)
    return load_labels(tmp_path / "l.csv")


def test_labels_come_back_as_they_were(tmp_path):
    labels = labels_of(
        tmp_path,
        "query_id,question,benchmark,model,is_correct,output_tokens\n"
        'q1,"What, is 1?",m,a,1,3\nq1,"What, is 1?",m,b,0,\nq2,Two,m,a,0,5\nq2,Two,m,b,1,6\n'
        "q3,Three,m,a,1,2\n",
    )
    assert write_toolkit_labels(labels, tmp_path / "t.csv") == (4, 1)
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table) == ["question", "model", "isCorrect", "output_tokens"]
    again, whole = load_labels(tmp_path / "t.csv"), labels.take(labels.complete)
    assert again.targets == whole.targets
    # the toolkit would count b as wrong on the third
    assert again.question.tolist() == ["What, is 1?", "Two"]
    assert again.correct.tolist() == whole.correct.tolist()
    np.testing.assert_array_equal(again.output_tokens, whole.output_tokens)


def test_questions_that_the_toolkit_would_mix_up_are_refused(tmp_path):
    labels = labels_of(
        tmp_path, "query_id,question,benchmark,a,b\n1,Same,m,0,1\n2,Same,n,1,1\n3,Other,m,0,\n"
    )
    with pytest.raises(InputError, match="'Same' occurs twice"):
        write_toolkit_labels(labels, tmp_path / "t.csv")
    with pytest.raises(InputError, match="No question was asked of every target"):
        write_toolkit_labels(labels.take([2]), tmp_path / "t.csv")


def test_a_pool_becomes_the_targets_of_a_loop(tmp_path):
    thinking = MODEL | {
        "name": "thinking", "display_name": "T", "system_prompt": "Think.",
        "chat_template_kwargs": {"enable_thinking": True},
    }  # fmt: skip
    local = MODEL | {
        "name": "local", "litellm_model": "openai/served", "api_base": "http://127.0.0.1:8000/v1",
    }  # fmt: skip
    out = tmp_path / "loop.yaml"
    endpoints = import_pool(pool(tmp_path, MODEL, thinking, local), out)
    loop = Loop(**read_mapping(out))
    assert loop.targets == endpoints
    known = {
        "base_url": "https://openrouter.ai/api/v1", "key": "OPENROUTER_API_KEY",
        "model": "vendor/small-1", "price": {"input": 0.05, "output": 0.2},
    }  # fmt: skip
    kwargs = {"extra": {"chat_template_kwargs": {"enable_thinking": True}}}
    own = {"base_url": "http://127.0.0.1:8000/v1", "key": "", "model": "served"}
    assert endpoints == [
        Endpoint(name="small", **known),
        Endpoint(name="thinking", system="Think.", **known | kwargs),
        Endpoint(name="local", **known | own),
    ]


def test_what_is_no_pool_is_refused(tmp_path):
    for change, said in (
        ({"cost_per_m_output_tokens": None}, "model 1 has no cost_per_m_output_tokens"),
        ({"cost_per_m_input_tokens": -1}, "price.input"),
        ({"litellm_model": "elsewhere/x"}, "add api_base"),
        ({"litellm_model": "openrouter"}, "add api_base"),
        ({"api_base": "file:///etc/passwd"}, "write it as https"),
    ):
        with pytest.raises(InputError, match=said):
            import_pool(pool(tmp_path, MODEL | change), tmp_path / "loop.yaml")
    for models, said in (([], "no list of models"), ([1], "1 has no name"), ([MODEL] * 2, "twice")):
        with pytest.raises(InputError, match=said):
            import_pool(pool(tmp_path, *models), tmp_path / "loop.yaml")
    assert not (tmp_path / "loop.yaml").exists()
