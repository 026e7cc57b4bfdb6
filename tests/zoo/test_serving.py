import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from prefill_router.answers.generation import Decoding, generate
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.zoo.serving import ZooServer, serve
from prefill_router.zoo.skills import benchmark

MODEL = "zoo/gpt2-a"
QUESTIONS = benchmark(attempts=2)["question"].tolist()[:12]
LONG = "a " * 5000


@pytest.fixture(scope="module")
def request_():
    """Send one request; return the status and the JSON that comes."""
    with serve(ZooServer()) as base_url:

        def send(body=None, path="/chat/completions", **headers):
            connection = http.client.HTTPConnection(urlsplit(base_url).netloc)
            content = json.dumps(body) if isinstance(body, dict) else body
            connection.request("GET" if body is None else "POST", "/v1" + path, content, headers)
            response = connection.getresponse()
            found = response.status, json.load(response)
            connection.close()
            return found

        send.base_url = base_url
        yield send


def asked(question, **fields):
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], **fields}


def test_answers_are_the_models_own_whoever_asks_beside_also_a_bad_question(request_):
    texts, n_tokens = generate(*load_target(resolve(MODEL)), QUESTIONS, Decoding(8))
    with ThreadPoolExecutor(13) as pool:
        bodies = [asked(question, max_tokens=8) for question in [*QUESTIONS, LONG]]
        *found, (status, _) = pool.map(request_, bodies)
    assert status == 400
    for (status, body), text, n in zip(found, texts, n_tokens, strict=True):
        assert status == 200
        assert body["choices"][0]["message"]["content"] == text
        assert body["usage"]["completion_tokens"] == n
        assert body["usage"]["total_tokens"] == n + body["usage"]["prompt_tokens"]
        assert body["choices"][0]["finish_reason"] == ("length" if n == 8 else "stop")


def test_a_wrong_path_spoils_no_later_request_of_its_connection(request_):
    connection = http.client.HTTPConnection(urlsplit(request_.base_url).netloc)
    for path, status in (("/chat/completions", 404), ("/v1/chat/completions", 200)):
        connection.request("POST", path, json.dumps(asked("a", max_tokens=1)))
        response = connection.getresponse()
        assert (response.status, bool(json.load(response))) == (status, True)
    connection.close()


def test_models_are_listed(request_):
    status, body = request_(path="/models")
    assert status == 200 and MODEL in {model["id"] for model in body["data"]}


def test_what_cannot_be_answered_is_said(request_):
    bad = ["{", {}, {"model": MODEL, "messages": []}, asked(7), asked("a", max_tokens=0)]
    refused = [(400, {"body": body}) for body in bad] + [
        (404, {"body": asked("a") | {"model": "zoo/../../etc"}}),
        (404, {"body": {}, "path": "/more"}),
        (404, {"path": "/more"}),
        (413, {"body": "", "Content-Length": str(2**21)}),
    ]
    for status, fields in refused:
        found, answer = request_(**fields)
        assert found == status and answer["error"]["message"]


def test_only_this_machine_is_served(request_):
    address = urlsplit(request_.base_url)
    assert address.hostname == "127.0.0.1"
    with pytest.raises(InputError, match=f"port {address.port} cannot be used"):
        ZooServer(address.port)
