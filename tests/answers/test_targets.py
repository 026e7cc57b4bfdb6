import pytest
from pydantic import ValidationError

from prefill_router.answers.generation import Decoding
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError

LOCAL = {"name": "a", "base_url": "http://127.0.0.1:1/v1", "model": "m"}


def endpoint(**fields):
    return Endpoint(**{**LOCAL, **fields})


def test_what_cannot_be_asked_is_refused():
    for fields, said in (
        ({"base_url": "127.0.0.1:1"}, "write it as"),
        ({"base_url": "https://me:secret@host/v1"}, "leave keys out"),
        ({"base_url": "https://host/v1?key=secret"}, "leave keys out"),
        ({"base_url": "https://host/v1?api-version=2024-10-21"}, "needs no api-version"),
        ({"base_url": "https://host/v1#top"}, "leave . and # out"),
        ({"base_url": "https://my host/v1"}, "write it as"),
        ({"base_url": "http://host/v1", "key": "KEY"}, "over https only"),
        ({"base_url": "http://127.example.com/v1", "key": "KEY"}, "over https only"),
        ({"key": "sk-abc"}, "pattern"),
        ({"extra": {"top_p": 1, "n": 5}}, "n is set by the collection"),
    ):
        with pytest.raises(ValidationError, match=said):
            endpoint(**fields)


def test_the_path_of_requests_is_cut_from_an_address():
    for end in ("", "/", "//", "/chat/completions", "/chat/completions/", "/completions", " \n"):
        assert endpoint(base_url=f"https://host/v1{end}").base_url == "https://host/v1"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0"])
def test_a_key_may_be_sent_to_this_machine_by_http(host):
    assert endpoint(base_url=f"http://{host}:8000/v1", key="KEY").key == "KEY"


def test_a_key_comes_from_the_environment_alone_and_is_not_repeated(monkeypatch):
    monkeypatch.setenv("KEY", " s3cret\n")  # as a file read by a shell may end
    one = endpoint(key="KEY", base_url="https://host/v1")
    assert one.secret() == "s3cret"
    assert endpoint(base_url="http://host/v1").secret() == ""  # a server without one
    for value in ("", " \n", "s3cret\nX: y", "s3 cret", "s3crét"):
        monkeypatch.setenv("KEY", value)
        with pytest.raises(InputError, match="KEY is not set, or holds what no key does") as error:
            one.secret()
        assert "s3" not in str(error.value)


def test_what_changes_an_answer_changes_its_key_and_nothing_else_does():
    key = endpoint().answer_key("q", Decoding())
    for fields in (
        {"base_url": "http://127.0.0.1:2/v1"}, {"concurrency": 9}, {"timeout": 3}, {"retries": 0},
        {"key": "KEY"}, {"price": {"input": 1, "output": 1}}, {"tokens_per_minute": 5},
    ):  # fmt: skip
        assert endpoint(**fields).answer_key("q", Decoding()) == key
    assert endpoint().answer_key("q", Decoding(temperature=0.0)) == key
    decodings = [Decoding(*of) for of in ((65,), (64, 1.0), (64, 1), (64, 1.0, 1))]
    changes = [
        {"name": "b"}, {"model": "n"}, {"system": "s"}, {"extra": {"top_p": 0.5}},
        {"limit_field": "max_completion_tokens"}, {"send_temperature": False},
    ]  # fmt: skip
    others = {endpoint(**fields).answer_key("q", Decoding()) for fields in changes}
    others |= {endpoint().answer_key("q", of) for of in decodings}  # 1 is 1.0
    assert len({key, endpoint().answer_key("Q", Decoding()), *others}) == 2 + 6 + 3


def test_the_most_tokens_a_prompt_can_have():
    assert endpoint(system="ab").most_input_tokens("é") == 2 + 2 + 64
    tools = [{"type": "function", "function": {"name": "f", "description": "long " * 100}}]
    assert endpoint(extra={"tools": tools}).most_input_tokens("é") > 2 + 64 + 500
