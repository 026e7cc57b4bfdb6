import http.client
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefill_router.answers.generation import Decoding, generate
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.zoo.serving import ZooServer, serve
from prefill_router.zoo.skills import benchmark

MODEL = "zoo/gpt2-a"
QUESTIONS = benchmark(attempts=2)["question"].tolist()[:12]


@pytest.fixture(scope="module")
def url():
    with serve(ZooServer()) as base_url:
        yield base_url


def post(url, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/chat/completions", content)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(url, question, model=MODEL, **fields):
    message = {"role": "user", "content": question}
    return post(url, {"model": model, "messages": [message], **fields})


def test_answers_are_the_models_own_whoever_asks_beside(url):
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda question: ask(url, question, max_tokens=8), QUESTIONS))
    texts, n_tokens = generate(*load_target(resolve(MODEL)), QUESTIONS, Decoding(8))
    for (status, body), text, n in zip(found, texts, n_tokens, strict=True):
        assert status == 200
        assert body["choices"][0]["message"]["content"] == text
        assert body["usage"]["completion_tokens"] == n
        assert body["usage"]["total_tokens"] == n + body["usage"]["prompt_tokens"]
        assert body["choices"][0]["finish_reason"] == ("length" if n == 8 else "stop")


def test_models_are_listed(url):
    with urllib.request.urlopen(f"{url}/models") as response:
        assert MODEL in {model["id"] for model in json.load(response)["data"]}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        ({}, 400),
        ({"model": MODEL, "messages": []}, 400),
        ({"model": MODEL, "messages": [{"content": 7}]}, 400),
        ({"model": "zoo/../../etc", "messages": [{"content": "a"}]}, 404),
        ({"model": MODEL, "messages": [{"content": "a"}], "max_tokens": 0}, 400),
        ({"model": MODEL, "messages": [{"content": "a " * 5000}]}, 400),
    ],
)
def test_what_cannot_be_answered_is_said(url, body, status):
    found, answer = post(url, body)
    assert found == status
    assert answer["error"]["message"]


def test_other_pages_and_long_requests_are_refused(url):
    assert post(f"{url}/more", {})[0] == 404
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(2**21))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_one_bad_question_spoils_no_other(url):
    asked = [QUESTIONS[0], "a " * 5000, QUESTIONS[1]]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda question: ask(url, question, max_tokens=8)[0], asked))
    assert found == [200, 400, 200]


def test_only_this_machine_is_served(url):
    assert url.startswith("http://127.0.0.1:")
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(InputError, match=f"port {port} cannot be used"):
        ZooServer(port)
