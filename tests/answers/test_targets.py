import pytest
from pydantic import ValidationError

from prefill_router.answers.generation import Decoding
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError

LOCAL = {"name": "a", "base_url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base_url": "127.0.0.1:1"}, "write it as"),
        ({"base_url": "https://me:secret@host/v1"}, "leave keys out"),
        ({"base_url": "https://host/v1?key=secret"}, "leave keys out"),
        ({"base_url": "http://host/v1", "key": "KEY"}, "over https only"),
        ({"key": "sk-abc"}, "pattern"),
        ({"concurrency": 0}, "greater than 0"),
        ({"price": {"input": -1, "output": 0}}, "greater than or equal"),
        ({"nmae": "x"}, "Extra inputs"),
        ({"extra": {"max_tokens": 10**6}}, "max_tokens is set by the collection"),
        ({"extra": {"top_p": 1, "n": 5}}, "n is set by the collection"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Endpoint(**{**LOCAL, **fields})


def test_keys_go_over_https_or_to_this_machine():
    Endpoint(**{**LOCAL, "key": "KEY"})
    Endpoint(**{**LOCAL, "base_url": "https://host/v1", "key": "KEY"})
    Endpoint(**{**LOCAL, "base_url": "http://host/v1"})  # a server without one


def test_a_key_comes_from_the_environment_alone(monkeypatch):
    endpoint = Endpoint(**LOCAL, key="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    for value in (None, "", " \n"):
        if value is not None:
            monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(InputError, match="SOME_KEY is not set"):
            endpoint.secret()
    monkeypatch.setenv("SOME_KEY", " s3cret\n")  # as a file read by a shell may end
    assert endpoint.secret() == "s3cret"
    assert Endpoint(**LOCAL).secret() == ""
    for value in ("s3cret\nX: y", "s3 cret", "s3crét"):
        monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(InputError) as error:
            endpoint.secret()
        assert "s3" not in str(error.value)


def test_what_changes_an_answer_changes_its_key_and_nothing_else_does():
    plain = Endpoint(**LOCAL)
    key = plain.answer_key("q", Decoding())
    for fields in (
        {"base_url": "http://127.0.0.1:2/v1"}, {"concurrency": 9}, {"timeout": 3}, {"retries": 0},
        {"key": "KEY"}, {"price": {"input": 1, "output": 1}}, {"tokens_per_minute": 5},
    ):  # fmt: skip
        assert Endpoint(**{**LOCAL, **fields}).answer_key("q", Decoding()) == key
    assert plain.answer_key("q", Decoding(temperature=0.0)) == key
    assert plain.answer_key("q", Decoding(temperature=1)) == plain.answer_key(
        "q", Decoding(temperature=1.0)
    )
    others = [
        plain.answer_key("Q", Decoding()),
        plain.answer_key("q", Decoding(65)),
        plain.answer_key("q", Decoding(temperature=1.0)),
        plain.answer_key("q", Decoding(temperature=1.0, seed=1)),
    ]
    for fields in (
        {"name": "b"}, {"model": "n"}, {"system": "s"}, {"extra": {"top_p": 0.5}},
        {"limit_field": "max_completion_tokens"}, {"send_temperature": False},
    ):  # fmt: skip
        others.append(Endpoint(**{**LOCAL, **fields}).answer_key("q", Decoding()))
    assert len({key, *others}) == 11


def test_the_most_tokens_a_prompt_can_have():
    endpoint = Endpoint(**LOCAL, system="ab")
    assert endpoint.most_input_tokens("é") == 2 + 2 + 64
    tools = [{"type": "function", "function": {"name": "f", "description": "long " * 100}}]
    assert Endpoint(**LOCAL, extra={"tools": tools}).most_input_tokens("é") > 2 + 64 + 500
