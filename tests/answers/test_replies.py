# ruff: noqa: F401, F811 (fixtures of another module)
import gzip
import json
import re

import pytest
from fault_server import faulty
from test_asking import MANY, QUESTIONS, ask, quick, worst

from prefill_router.answers import endpoints
from prefill_router.answers.replies import count_tokens
from prefill_router.labels.costs import MILLION, Prices

USAGE = {"prompt_tokens": 5, "completion_tokens": 7}
CALL = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "1?"}]}


def said(content=None, finish="stop", usage=USAGE, error=None, **message):
    """Return a reply's body as bytes."""
    choice = {"message": {"content": content, **message}, "finish_reason": finish, "error": error}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def whole(**body):
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (said("The ans", "content_filter"), "withheld (content_filter)"),
        (said("The ans", "Content-Filter"), "withheld (Content-Filter)"),
        (said("The ans", "guardrail_intervened"), "withheld (guardrail_intervened)"),
        (said(refusal="I can't help."), "refusal"),
        (said("", "tool_calls", tool_calls=CALL), "tool_calls"),
        (said(reasoning_content="It is 1."), "reasoning_content"),
        (said("", reasoning="It is 1."), "reasoning"),
        (said("\n", "MAX_TOKENS", reasoning="It"), "reasoning, cut off: raise max_new_tokens"),
        (said(None, "model_length"), "an empty message, cut off"),
        (said([THOUGHT, {"type": "reasoning", "text": "It is 1."}]), "content"),
        (said(1), "content"),
        (whole(choices=[], usage=USAGE), "an empty list of choices"),
        (whole(choices=[{"message": None}], error=None, usage=USAGE), "an empty message"),
        (whole(choices=["1"], usage=USAGE), "an empty list of choices"),
    ],
)
def test_a_completion_without_a_text_is_charged_and_missing(ask, body, named):
    with faulty({QUESTIONS[0]: [body]}) as server:
        found, ledger = ask(server, QUESTIONS[:2])
        assert found == [None, "2"] and len(server.requests) == 2
        assert ledger.uncertain == 0
        assert ledger.spent == pytest.approx((5 * 1000 + 7 * 2000 + 2 * 1000 + 2000) / MILLION)
        [problem] = ledger.problems
        assert "no answer to 'w' (no text, but " in problem and named in problem
        assert "{" not in problem
        assert ask(server, QUESTIONS[:2])[0] == ["1", "2"]  # a rerun requests it, and no other
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (said([THOUGHT, {"type": "text", "text": "Par"}, {"type": "text", "text": "is"}]), "Paris"),
        (said(["Paris"]), "Paris"),
        (b"\xef\xbb\xbf" + said("Paris", None), "Paris"),
        (b"\n\n \n" + said("Paris", "end_turn", tool_calls=[], refusal=None), "Paris"),
        (said("Paris", reasoning_content="Not London.", error={"code": 0}), "Paris"),
        (gzip.compress(said("Paris")), "Paris"),
    ],
)
def test_a_text_in_another_form_is_the_answer(ask, body, text):
    with faulty({QUESTIONS[0]: [body]}) as server:
        assert ask(server, QUESTIONS[:1])[0] == [text]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "named", "charged"),
    [
        (said("The ans", "error"), r"got lost \(error\)", True),
        (said("The ans", "error", error={"code": 502, "message": "cut"}), "got lost .*: cut", True),
        (said("The ans", None, error={"message": "upstream"}), "got lost .*: upstream", True),
        (said("The ans", "network_error"), "got lost", True),
        (said("The ans", "abort"), "got lost", True),
        (said("", "insufficient_system_resource"), "got lost", True),
        (whole(error={"code": 502, "message": "Provider returned error",
                      "metadata": {"raw": "overloaded"}}), "returned error: overloaded", True),
        (whole(choices=None, error="busy"), ": busy", True),
        (whole(choices=[{"message": {"content": ""}}], error={"message": "busy"}), ": busy", True),
        (whole(object="error", message="slow down", code="429"), "slow down", False),
        (b"", "an empty body", True),
        (b"upstream connect error", "no chat completion: upstream connect error", True),
        (b'{"choices": [{"mess', "no chat completion: JSON that breaks off,", True),
        (said("", error={"code": 502, "message": "upstream"}), "got lost .*: upstream", True),
        ((503, {}, b"<html><title>Sorry</title></html>"), "HTTP 503: a web page", False),
        ((500, {}, gzip.compress(b'[{"error": {"message": "no room"}}]')), "500: no room", False),
    ],
)  # fmt: skip
def test_what_got_lost_is_asked_for_again(ask, body, named, charged):
    with faulty({QUESTIONS[0]: [body], QUESTIONS[2]: [body] * 2}) as server:
        found, ledger = ask(server, QUESTIONS[:3], retries=1)
    assert found == ["1", "2", None] and len(server.requests) == 5
    [problem] = ledger.problems
    assert re.search(named, problem)
    lost = worst(QUESTIONS[0]) + 2 * worst(QUESTIONS[2])
    assert ledger.uncertain == pytest.approx(lost * charged)


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ((400, {}, b'{"detail": [{"loc": ["body"], "msg": "too long"}]}'), "HTTP 400: too long"),
        (whole(error={"code": "content_filter", "message": "policy"}), "policy"),
        (whole(error={"type": "invalid_request_error", "message": "no"}), ": no"),
        (whole(error={"code": 403, "message": "not for you"}), "not for you"),
        (whole(id="1", type="message", content=[]), "JSON with the fields id, type, content"),
        (whole(message={"content": "1"}, done=True), "JSON with the fields message, done"),
        (b"<!doctype html><title>Log in</title>", "a web page"),
        (b'data: {"choices": [{"delta": {"content": "1"}}]}', "an event stream"),
        ((302, {}, b""), "HTTP 302: an empty body"),
        ((400, {}, "too\n long\x1b[2J"), r"HTTP 400: too long\x1b[2J"),
        (said("1", "filter\x1b[2J"), r"withheld (filter\x1b[2J)"),
    ],
)
def test_what_no_second_try_would_change_is_asked_for_once(ask, reply, named):
    with faulty({QUESTIONS[1]: [reply]}) as server:
        found, ledger = ask(server, QUESTIONS[:3], concurrency=1)
    assert found == ["1", None, "3"] and len(server.requests) == 3
    [problem] = ledger.problems
    assert named in problem and "{" not in problem


FLAGGED = 403, {}, b'{"error": {"message": "Input was flagged by moderation", "code": 403}}'
UNSERVED = 404, {}, b'{"error": {"message": "No endpoints found that support it"}}'


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_query_that_is_refused_stops_no_other(ask, concurrency):
    questions = MANY[:20]
    refused = {questions[0]: FLAGGED, questions[7]: FLAGGED, questions[10]: UNSERVED}
    with faulty({question: [reply] * 2 for question, reply in refused.items()}) as server:
        for _ in range(2):
            found, ledger = ask(server, questions, concurrency=concurrency)
            wanted = [None if q in refused else str(len(q.split())) for q in questions]
            assert found == wanted and ledger.uncertain == 0
            flagged, unserved = ledger.problems  # one line per reason
            assert " and 1 more (HTTP 403" in flagged and " more" not in unserved
        assert None not in ask(server, questions)[0]
    assert len(server.requests) == 20 + 3 + 3


@pytest.mark.parametrize(
    ("reply", "n_asked"),
    [
        (UNSERVED, 1),
        ((403, {}, "no"), 1),
        ((402, {}, "pay"), 1),
        ((403, {}, b'{"code": "INSUFFICIENT_BALANCE"}'), 1),
        ((500, {}, "insufficient balance (1008)"), 1),
        (FLAGGED, 5),
        ((302, {}, b""), 5),
    ],
)
def test_a_target_that_refuses_from_the_first_query_on_is_asked_no_further(ask, reply, n_asked):
    with faulty({"*": [reply] * 20}) as server:
        _, ledger = ask(server, concurrency=1)
    assert len(server.requests) == n_asked
    assert "asked no further" in ledger.problems[-1] and server.base_url in ledger.problems[-1]


@pytest.mark.parametrize(
    ("reply", "refused", "why"),
    [(FLAGGED, MANY[2:8], "5 questions in a row failed"), (UNSERVED, MANY[:1], "HTTP 404: No end")],
)
def test_a_rerun_goes_on_behind_what_stopped_the_one_before(ask, reply, refused, why):
    with faulty({question: [reply] * 3 for question in refused}) as server:
        first, again = (ask(server, MANY[:20], concurrency=1) for _ in range(2))
    assert f"asked no further: {why}" in first[1].problems[-1]
    served = [n for n in range(1, 21) if MANY[n - 1] not in refused]
    assert {text for text in again[0] if text} == {str(n) for n in served}
    assert sum(text is not None for text in first[0]) < 3


@pytest.mark.parametrize("names", [("prompt", "completion"), ("input", "output")])
@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ([32, 9, 135, 94], (32, 103)),  # xAI: reasoning beside the completion
        ([32, 103, 135, 94], (32, 103)),  # OpenAI: among it
        ([279, 6, 374, 89], (279, 95)),
        ([20, 424, 1016, None], (20, 996)),  # Gemini: thoughts in the total alone
        ([21, 0, 81, 60], (21, 60)),
        ([21, None, 81, None], (21, 60)),
        ([171, None, 171, None], (171, None)),
        ([20, 10, 25, None], (20, 10)),
        ([0, 0, 0, 0], (None, None)),
        ([12, 0, 12, None], (12, None)),
        ([0, 7, 7, None], (None, 7)),
        (["12", 3.0, None, None], (12, 3)),
        ([True, -1, 2.5, None], (None, None)),
        ([10**400, 1e308, "1" * 40, [1]], (None, None)),
    ],
)
def test_tokens_are_what_the_usage_adds_up_to(names, usage, tokens):
    stated = {f"{name}_tokens": n for name, n in zip((*names, "total"), usage, strict=False)}
    stated["completion_tokens_details"] = {"reasoning_tokens": usage[3]}
    assert count_tokens(stated, has_text=True) == tokens


def test_costs_follow_the_tokens_and_unknown_ones_count_at_the_most(ask):
    beside = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}
    usages = [beside, dict.fromkeys(USAGE, 0), None, [1], {"prompt_tokens": 5}]
    bodies = [[said("1", usage=usage)] for usage in usages]
    with faulty(dict(zip(QUESTIONS, bodies, strict=False))) as server:
        _, ledger = ask(server, QUESTIONS[:5], prices=Prices({"a": 1000.0}, {"a": 1000.0}))
    counted = {(r.input_tokens, r.output_tokens, r.cost_usd) for r in ledger.answers.values()}
    assert counted == {(32, 103, 0.135), (None, None, None), (5, None, None)}
    least = sum(len(question) + 64 + 8 for question in QUESTIONS[1:5]) * 1000 / MILLION
    assert least <= ledger.uncertain < 2 * least  # more once one answer took more than 8 tokens


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_answer_beyond_its_worst_case_raises_that_of_the_next(ask, concurrency):
    long = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 205}  # 200, not 8
    cap = 5.5 * (5 * 1000 + 200 * 2000) / MILLION
    with faulty({q: [said("1", usage=long)] for q in QUESTIONS}) as server:
        _, ledger = ask(server, cap_usd=cap, concurrency=concurrency)
    assert ledger.spent <= cap and 3 <= len(server.requests) <= 5
    assert "the cap of" in ledger.problems[-1]


# -- ways -----------------------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch):
    """Send what the environment sends through proxies to a server, and name none besides."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def through(proxy):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("HTTPS_PROXY", proxy)

    return through


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks4://nowhere"])
def test_this_machine_is_reached_through_no_proxy(ask, proxied, host, proxy):
    proxied(proxy)
    with faulty() as server:
        url = server.base_url.replace("127.0.0.1", host)
        assert ask(server, QUESTIONS[:1], base_url=url)[1].problems == []


def test_errors_name_the_proxy_and_not_its_password(ask, proxied):
    with faulty({QUESTIONS[1]: [(407, {}, "who?")]}) as server:
        proxied(server.base_url.replace("http://", "http://me:hush@").removesuffix("/v1"))
        place = f"through the proxy 127.0.0.1:{server.server_port}"
        found, ledger = ask(server, base_url="http://models.example/v1", concurrency=1)
        assert found[0] == "1" and len(server.requests) == 2
        assert ledger.problems[0].count(place) == 1 and "hush" not in ledger.problems[0]
        tunnel = ask(server, base_url="https://models.example/v1", retries=0)[1]
    assert place in tunnel.problems[0] and tunnel.uncertain == 0  # nothing was sent


def test_a_proxy_that_cannot_be_used_is_named(ask, proxied):
    proxied("socks4://me:hush@nowhere:1")
    with faulty() as server, pytest.raises(ValueError, match="PROXY: write nowhere:1") as error:
        ask(server, base_url="http://models.example/v1")
    assert "hush" not in str(error.value)


def test_a_packed_body_is_read_up_to_a_limit_of_what_it_holds(ask, monkeypatch):
    monkeypatch.setattr(endpoints, "MOST_BYTES", 2**12)
    bomb = gzip.compress(said("1", padding=" " * 2**24))
    with faulty(
        {
            QUESTIONS[0]: [bomb],
            QUESTIONS[1]: [(200, {"Content-Encoding": "gzip"}, gzip.compress(said("2")))],
        }
    ) as server:
        found, ledger = ask(server, QUESTIONS[:2], retries=0)
    assert found == [None, "2"] and len(ledger.problems) == 1
