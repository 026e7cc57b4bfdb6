import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_server import faulty

from prefill_router.answers import asking, endpoints
from prefill_router.answers.asking import ask_endpoints
from prefill_router.answers.generation import Decoding, generate
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.labels.costs import MILLION, Prices
from prefill_router.zoo.skills import benchmark

SHORT = Decoding(max_new_tokens=8)
MANY = benchmark(attempts=3)["question"].tolist()[:40]
QUESTIONS = MANY[:12]
MODEL = "zoo/gpt2-a"
PRICES = Prices({"a": 1000.0, "b": 1000.0}, {"a": 2000.0, "b": 2000.0})
SECRET = "sk-do-not-tell-4711"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def answers():
    texts, n_tokens = generate(*load_target(resolve(MODEL)), QUESTIONS, SHORT)
    return list(zip(texts, n_tokens.tolist(), strict=True))


def endpoint(server, name="a", **fields):
    return Endpoint(name=name, base_url=server.base_url, model=MODEL, **fields)


def ask(server, path, questions=QUESTIONS, *, prices=None, cap_usd=None, **fields):
    one = endpoint(server, **fields)
    return ask_endpoints([one], questions, SHORT, path, prices, cap_usd)


def texts(asked, name="a"):
    return [None if reply is None else reply.text for reply in asked.replies[name]]


def test_answers_are_the_models_own_and_are_asked_for_once(tmp_path, answers):
    with faulty() as server:
        asked = ask(server, tmp_path / "j", [*QUESTIONS, QUESTIONS[0]], prices=PRICES)
        again = ask(server, tmp_path / "j", prices=PRICES)
    assert asked.problems == again.problems == []
    found = [(reply.text, reply.output_tokens) for reply in asked.replies["a"]]
    assert found == [*answers, answers[0]]
    assert again.replies["a"] == asked.replies["a"][:-1]
    assert server.asked == dict.fromkeys(QUESTIONS, 1)
    for reply in asked.replies["a"]:
        cost = reply.input_tokens * 1000 + reply.output_tokens * 2000
        assert reply.cost_usd == pytest.approx(cost / MILLION)
        assert reply.finish in ("stop", "length")
    total = sum(reply.cost_usd for reply in again.replies["a"])
    assert asked.spent == again.spent == pytest.approx(total)
    assert asked.uncertain == 0


def test_what_is_sent(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, SECRET)  # for another endpoint
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Key: {SECRET}\nAuthorization: Bearer {SECRET}")
    with faulty() as server:
        ask(server, tmp_path / "j", QUESTIONS[:1], system="Be brief.", extra={"top_p": 0.5})
        _, _, headers, request = server.requests[0]
        monkeypatch.setenv("MINE", "k1")
        ask(server, tmp_path / "k", QUESTIONS[:1], key="MINE", limit_field="max_completion_tokens",
            send_temperature=False)  # fmt: skip
        _, _, with_key, bare = server.requests[1]
    assert SECRET not in str(headers)
    assert request == {
        "model": MODEL, "max_tokens": 8, "temperature": 0.0, "top_p": 0.5,
        "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[0]},
        ],
    }  # fmt: skip
    assert with_key["Authorization"] == "Bearer k1"
    assert SECRET not in str(with_key)
    assert bare["max_completion_tokens"] == 8
    assert not {"temperature", "max_tokens"} & set(bare)


@pytest.mark.parametrize(
    ("fault", "may_be_charged"),
    [
        ((500, {}, "broken"), False),
        ((429, {}, "slow down"), False),
        ((502, {}, "bad gateway"), True),
        ("cut", True),
        ("silence", True),
        ("drip", True),
        (b"{not json", True),
        (b"[]", True),
        (b'{"choices": []}', True),
        (b'{"choices": [{"message": {"content": 7}}]}', True),
        (b"[" * 100_000, True),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_fault_is_tried_again(tmp_path, answers, fault, may_be_charged):
    faults = {QUESTIONS[0]: [fault], QUESTIONS[2]: [fault, fault]}
    with faulty(faults) as server:
        server.answerer.ask(MODEL, QUESTIONS[0], SHORT)  # loads the model
        # Only what never ends must run into it: a slow machine's good answers must not.
        limit = 2 if fault in ("silence", "drip") else 60
        asked = ask(server, tmp_path / "j", QUESTIONS[:4], prices=PRICES, timeout=limit)
    assert texts(asked) == [text for text, _ in answers[:4]]
    assert asked.problems == []
    assert [server.asked[q] for q in QUESTIONS[:4]] == [2, 1, 3, 1]
    worst = sum(
        n * ((len(QUESTIONS[i].encode()) + 64) * 1000 + 8 * 2000) / MILLION
        for i, n in ((0, 1), (2, 2))
    )
    assert asked.uncertain == pytest.approx(worst if may_be_charged else 0)


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_without_end_is_not_read_to_its_end(tmp_path, monkeypatch, status):
    monkeypatch.setattr(endpoints, "MOST_BYTES", 2**20)
    with faulty({QUESTIONS[0]: [status, status]}) as server:
        asked = ask(
            server, tmp_path / "j", QUESTIONS[:2], prices=PRICES, retries=1, timeout=60,
            concurrency=1,
        )  # fmt: skip
        assert 2 * 2**20 < server.flooded < 2 * 2**24  # sockets hold some more
    assert texts(asked)[0] is None and texts(asked)[1] is not None
    [problem] = asked.problems
    reason = "is longer than 1,048,576 bytes" if status == 200 else "HTTP 500"
    assert "no answer to" in problem and reason in problem and len(problem) < 600
    assert asked.uncertain == pytest.approx(2 * worst(QUESTIONS[0]) if status == 200 else 0)


def test_a_body_that_would_unfold_is_not_unpacked(tmp_path, answers):
    with faulty({QUESTIONS[0]: ["packed"]}) as server:
        asked = ask(server, tmp_path / "j", QUESTIONS[:1], retries=0)
        assert "compressed (gzip)" in asked.problems[0]
        assert texts(ask(server, tmp_path / "j", QUESTIONS[:1])) == [answers[0][0]]
        assert {headers["Accept-Encoding"] for *_, headers, _ in server.requests} == {"identity"}


@pytest.mark.parametrize(
    ("fault", "retries"), [((500, {}, "broken"), 0), ("cut", 1), (b"null", 3)], ids=repr
)
def test_retries_are_requests_after_the_first(tmp_path, answers, fault, retries):
    faults = {QUESTIONS[0]: [fault] * (retries + 1), QUESTIONS[1]: [fault] * retries}
    with faulty(faults) as server:
        asked = ask(server, tmp_path / "j", QUESTIONS[:2], retries=retries)
    assert server.asked == dict.fromkeys(QUESTIONS[:2], retries + 1)
    assert texts(asked) == [None, answers[1][0]]  # the last request may still succeed
    assert len(asked.problems) == 1


def test_an_answer_without_usage_counts_at_its_worst(tmp_path, answers):
    with faulty({QUESTIONS[0]: ["no usage"]}) as server:
        asked = ask(server, tmp_path / "j", QUESTIONS[:2], prices=PRICES)
    reply = asked.replies["a"][0]
    assert (reply.text, reply.output_tokens, reply.cost_usd) == (answers[0][0], None, None)
    assert asked.uncertain > 0


def test_an_impossible_count_is_none(tmp_path):
    usage = b'{"prompt_tokens": 5, "completion_tokens": 1' + b"0" * 400 + b"}"
    body = b'{"choices": [{"message": {"content": "7"}}], "usage": ' + usage + b"}"
    with faulty({QUESTIONS[0]: [body]}) as server:
        asked = ask(server, tmp_path / "j", QUESTIONS[:1], prices=PRICES)
    reply = asked.replies["a"][0]
    assert (reply.text, reply.output_tokens, reply.cost_usd) == ("7", None, None)
    assert asked.uncertain == pytest.approx(worst(QUESTIONS[0]))
    assert len(server.requests) == 1


def test_retry_after_holds_back_every_request(tmp_path):
    fault = (429, {"Retry-After": "0.6"}, "slow down")
    with faulty({QUESTIONS[0]: [fault]}) as server:
        server.answerer.ask(MODEL, QUESTIONS[0], SHORT)
        assert ask(server, tmp_path / "j", concurrency=1).problems == []
    first, second, *_ = [at for at, *_ in server.requests]
    assert second - first >= 0.6


def test_backoff_grows(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(asking.random, "uniform", lambda low, high: waits.append(high) or 0)
    monkeypatch.setattr(asking, "LONGEST_WAIT", 0.05)
    with faulty({"*": [(500, {}, "broken")] * 4}) as server:
        ask(server, tmp_path / "j", QUESTIONS[:1])
    assert waits == [0.01, 0.02, 0.04, 0.05]


def test_a_pause_too_long_ends_the_asking(tmp_path):
    with faulty({"*": [(429, {"Retry-After": "86400"}, "tomorrow")]}) as server:
        asked = ask(server, tmp_path / "j", concurrency=1)
    assert len(server.requests) == 1
    assert "asks to wait 86,400 s" in asked.problems[0]


def test_an_endpoint_that_turns_everybody_down_is_asked_no_further(tmp_path):
    with faulty({"*": [(401, {}, "go away")] * 50}) as server:
        asked = ask(server, tmp_path / "j", concurrency=2)
    assert len(server.requests) <= 2
    assert set(texts(asked)) == {None}
    assert len(asked.problems) == 1
    assert "asked no further: HTTP 401" in asked.problems[0]
    assert "go away" in asked.problems[0]


def test_no_money_left_at_the_endpoint_ends_the_asking(tmp_path):
    body = b'{"error": {"message": "pay", "code": "insufficient_quota"}}'
    with faulty() as server:
        server.RequestHandlerClass = type(
            "Broke", (server.RequestHandlerClass,),
            {"play": lambda self, *_: self.send_body(429, body)},
        )  # fmt: skip
        asked = ask(server, tmp_path / "j", concurrency=1)
    assert len(server.requests) == 1
    assert "pay" in asked.problems[0]


def test_a_question_that_is_refused_has_no_answer_and_stops_nothing(tmp_path, answers):
    with faulty({QUESTIONS[1]: [(400, {}, "too long")]}) as server:
        asked = ask(server, tmp_path / "j", QUESTIONS[:3])
        assert texts(asked) == [answers[0][0], None, answers[2][0]]
        assert "no answer to" in asked.problems[0] and "too long" in asked.problems[0]
        assert server.asked[QUESTIONS[1]] == 1
        assert texts(ask(server, tmp_path / "j", QUESTIONS[:3])) == [t for t, _ in answers[:3]]
    assert server.answered == dict.fromkeys(QUESTIONS[:3], 1)


def test_an_endpoint_that_fails_and_fails_is_asked_no_further(tmp_path):
    with faulty({"*": [(500, {}, "broken")] * 1000}) as server:
        asked = ask(server, tmp_path / "j", concurrency=1, retries=1)
    assert len(server.requests) == 5 * 2
    assert "5 questions in a row failed" in asked.problems[-1]


def test_nobody_there(tmp_path):
    with faulty() as server:
        pass
    asked = ask(server, tmp_path / "j", concurrency=1, retries=0, prices=PRICES)
    assert "no connection" in asked.problems[0]
    assert asked.uncertain == 0  # nothing was sent


def test_one_endpoint_s_faults_are_not_another_s(tmp_path, answers):
    with faulty() as good, faulty({"*": [(401, {}, "no")] * 50}) as bad:
        both = [endpoint(bad, "b"), endpoint(good, "a")]
        asked = ask_endpoints(both, QUESTIONS, SHORT, tmp_path / "j")
    assert texts(asked) == [text for text, _ in answers]
    assert set(texts(asked, "b")) == {None}


# -- limits --------------------------------------------------------------------------------------


def test_no_more_requests_at_a_time_than_allowed(tmp_path):
    with faulty(delay=0.03) as server:
        ask(server, tmp_path / "j", concurrency=3)
    assert server.most_open == 3


def test_requests_keep_their_distance(tmp_path):
    with faulty() as server:
        server.answerer.ask(MODEL, QUESTIONS[0], SHORT)
        ask(server, tmp_path / "j", QUESTIONS[:6], requests_per_minute=600)
    times = [at for at, *_ in server.requests]
    assert times[-1] - times[0] >= 0.45  # 0.1 s apart


def test_tokens_are_limited_by_the_most_a_request_can_take(tmp_path):
    most = len(QUESTIONS[0].encode()) + 64 + 8
    with faulty() as server:
        server.answerer.ask(MODEL, QUESTIONS[0], SHORT)
        ask(server, tmp_path / "j", QUESTIONS[:2], tokens_per_minute=most * 60 / 0.3)
    times = [at for at, *_ in server.requests]
    assert times[1] - times[0] >= 0.25


def worst(question):
    return ((len(question.encode()) + 64) * 1000 + 8 * 2000) / MILLION


def test_the_cap_is_never_exceeded_even_at_worst(tmp_path):
    concurrency = 4
    cap = 1.3 * worst(max(QUESTIONS, key=len))
    with faulty() as server:
        asked = ask(server, tmp_path / "j", prices=PRICES, cap_usd=cap, concurrency=concurrency)
        assert asked.spent <= cap
        n_first = len(server.requests)
        assert 0 < n_first < len(QUESTIONS)
        assert asked.spent + worst(max(QUESTIONS, key=len)) > cap  # and it is made use of
        assert "the cap of" in asked.problems[0] and "raise cap_usd" in asked.problems[0]
        again = ask(server, tmp_path / "j", prices=PRICES, cap_usd=cap, concurrency=concurrency)
        assert len(server.requests) == n_first  # runs before count
        assert again.spent == asked.spent
        rest = ask(server, tmp_path / "j", prices=PRICES, cap_usd=100, concurrency=concurrency)
    assert rest.problems == []
    assert server.answered == dict.fromkeys(QUESTIONS, 1)


def test_lost_answers_count_against_the_cap(tmp_path):
    cap = 2.5 * worst(QUESTIONS[0])
    with faulty({QUESTIONS[0]: ["cut"] * 10}) as server:
        asked = ask(server, tmp_path / "j", QUESTIONS[:1], prices=PRICES, cap_usd=cap)
    assert len(server.requests) == 2
    assert asked.uncertain == pytest.approx(2 * worst(QUESTIONS[0]))


def test_a_cap_without_a_price_is_refused_before_anything_is_asked(tmp_path):
    with faulty() as server:
        for prices in (None, Prices({"aa": 1.0}, {"aa": 1.0})):
            with pytest.raises(InputError, match="price of target 'a'"):
                ask(server, tmp_path / "j", prices=prices, cap_usd=1.0)
    assert server.requests == []


# -- interruptions -------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, answers, monkeypatch):
    real = asking.track

    def interrupted(iterable, *arguments):
        for i, item in enumerate(real(iterable, *arguments)):
            if i == 4:
                raise KeyboardInterrupt
            yield item

    with faulty() as server:
        monkeypatch.setattr(asking, "track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(server, tmp_path / "j", concurrency=2)
        size = (tmp_path / "j").stat().st_size
        time.sleep(0.1)
        assert (tmp_path / "j").stat().st_size == size  # nobody goes on in secret
        monkeypatch.setattr(asking, "track", real)
        kept = sum('"answered"' in line for line in (tmp_path / "j").read_text().splitlines())
        n_before = len(server.requests)
        asked = ask(server, tmp_path / "j")
    assert 4 <= kept < len(QUESTIONS)
    assert texts(asked) == [text for text, _ in answers]
    assert len(server.requests) == n_before + len(QUESTIONS) - kept


def test_a_full_disk_stops_the_asking(tmp_path, monkeypatch):
    from prefill_router.answers.ledger import Journal

    real = Journal.append

    def full(self, record):
        if record["event"] == "answered":
            raise OSError(28, "No space left on device")
        real(self, record)

    monkeypatch.setattr(Journal, "append", full)
    with faulty() as server, pytest.raises(OSError, match="No space"):
        ask(server, tmp_path / "j", concurrency=2)
    assert len(server.requests) <= 2


def test_killed_at_random_moments_nothing_answered_is_asked_for_twice(tmp_path, answers):
    """A child is killed again and again; its journal says what it had been paid for."""
    journal = tmp_path / "j"
    script = Path(__file__).parents[1] / "kills.py"
    with faulty() as server:
        server.faults = {MANY[3]: ["cut"], MANY[5]: [(500, {}, "x")]}
        command = [sys.executable, script, server.base_url, journal, "12", *MANY]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        kept = [int(line) for line in said.stdout.splitlines()]
        assert len(kept) == 12
        assert len({n for n in kept if 0 < n < len(MANY)}) >= 5  # killed on the way
        asked = ask(server, journal, MANY)
        received = server.asked
    assert texts(asked) == generate(*load_target(resolve(MODEL)), MANY, SHORT)[0]
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    attempts, answered = {}, {}
    for place, record in enumerate(records):
        if record["event"] == "asked":
            attempts.setdefault(record["key"], []).append(place)
        elif record["event"] == "answered":
            assert record["key"] not in answered
            answered[record["key"]] = place
    assert len(answered) == len(MANY)
    for question in MANY:
        key = endpoint(server).answer_key(question, SHORT)
        assert max(attempts[key]) < answered[key]  # not asked again once its answer is kept
        # what reached the server was on disk before it was sent
        assert received[question] <= len(attempts[key])
    lost = sum(map(len, attempts.values())) - len(answered)
    assert lost <= 2 * len(kept) + 2  # at most what was in flight at each kill, and two faults


# -- secrets -------------------------------------------------------------------------------------


def test_the_key_is_in_no_log_error_or_file(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MINE", SECRET)
    caplog.set_level(logging.DEBUG)
    faults = {
        QUESTIONS[0]: ["echo as answer"],
        QUESTIONS[1]: [(500, {}, f"Bearer {SECRET}")] * 2,
        QUESTIONS[2]: [f'"{SECRET}" is no JSON'.encode()] * 2,
        QUESTIONS[3]: [(400, {}, f"{'x' * 290} {SECRET}")] * 2,
        QUESTIONS[4]: ["echo"],
    }
    with faulty(faults) as server:
        asked = ask(
            server, tmp_path / "j", QUESTIONS[:6], key="MINE", concurrency=1, retries=1,
        )  # fmt: skip
    assert all(SECRET in headers["Authorization"] for _, _, headers, _ in server.requests)
    assert asked.replies["a"][0].text == "Bearer [MINE]"
    assert len(asked.problems) == 4
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    said = capfd.readouterr()
    for text in (written, str(asked), caplog.text, said.out, said.err, repr(endpoint(server))):
        assert SECRET not in text
        assert SECRET[:12] not in text  # nor a part of it, cut off
    assert "[MINE]" in asked.problems[0]
