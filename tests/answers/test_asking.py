import gzip
import json
import logging
import random
import re
import time
from email.utils import formatdate
from functools import partial

import pytest
from fault_server import faulty
from kills import alone, is_killed

from prefill_router.answers import asking, endpoints
from prefill_router.answers.asking import ask_endpoints
from prefill_router.answers.generation import Decoding
from prefill_router.answers.ledger import Ledger, Reply
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError
from prefill_router.labels.costs import MILLION, Prices

SHORT = Decoding(max_new_tokens=8)
MANY = [" ".join(["w"] * n) for n in range(1, 41)]  # the server answers with n
QUESTIONS = MANY[:12]
ANSWERS = [str(n) for n in range(1, 13)]
PRICES = Prices({"a": 1000.0, "b": 1000.0}, {"a": 2000.0, "b": 2000.0})
SECRET = "sk-do-not-tell-4711"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)


def endpoint(server, name="a", **fields):
    return Endpoint(**{"name": name, "base_url": server.base_url, "model": "m", **fields})


@pytest.fixture
def ask(tmp_path):
    """Ask one endpoint, always into the same ledger; return its texts and the ledger."""

    def ask(server, questions=QUESTIONS, *, cap_usd=None, prices=PRICES, **fields):
        one = endpoint(server, **fields)
        ledger = ask_endpoints([one], questions, SHORT, tmp_path / "j", prices, cap_usd)
        return texts(ledger, one, questions), ledger

    return ask


def texts(ledger, endpoint, questions=QUESTIONS):
    found = [ledger.answers.get(endpoint.answer_key(q, SHORT)) for q in questions]
    return [reply and reply.text for reply in found]


def worst(question):
    return ((len(question.encode()) + 64) * 1000 + 8 * 2000) / MILLION


def test_answers_are_asked_for_once_and_priced(ask):
    with faulty() as server:
        (said, ledger), (again, other) = (ask(server, [*QUESTIONS, QUESTIONS[0]]) for _ in range(2))
    assert server.asked == dict.fromkeys(QUESTIONS, 1)
    assert said == again == [*ANSWERS, "1"]
    wanted = {Reply(str(n), n, 1, "stop", (n * 1000 + 2000) / MILLION) for n in range(1, 13)}
    assert set(ledger.answers.values()) == wanted and ledger.answers == other.answers
    assert ledger.problems == other.problems == []
    assert ledger.spent == other.spent == pytest.approx(sum(reply.cost_usd for reply in wanted))
    assert ledger.uncertain == 0


def test_what_is_sent(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)  # for another endpoint
    monkeypatch.setenv("MINE", "k1")
    with faulty() as server:
        ask(server, QUESTIONS[:1], system="Be brief.", extra={"top_p": 0.5})
        ask(server, QUESTIONS[:1], key="MINE", limit_field="max_completion_tokens",
            send_temperature=False)  # fmt: skip
    (_, _, headers, request), (_, _, with_key, bare) = server.requests
    question = {"role": "user", "content": QUESTIONS[0]}
    system = {"role": "system", "content": "Be brief."}
    sampling = {"max_tokens": 8, "temperature": 0.0, "top_p": 0.5}
    assert request == {"model": "m", "messages": [system, question], **sampling}
    assert bare == {"model": "m", "messages": [question], "max_completion_tokens": 8}
    assert with_key["Authorization"] == "Bearer k1"
    assert SECRET not in str(headers) + str(with_key)


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "may_be_charged", "said"),
    [
        ((500, {}, "broken"), False, "HTTP 500.*broken"),
        ((502, {}, "bad gateway"), True, "HTTP 502"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 2**24)), True, "an empty body"),
        ("cut", True, "the connection broke"),
        ("silence", True, "no answer within 1 s"),
        ("drip", True, "no answer within 1 s"),
        (200, True, "no chat completion"),  # a body without end
        (500, False, "HTTP 500"),
        (b"[" * 100_000, True, "no chat completion"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_fault_is_tried_again_as_often_as_allowed(ask, monkeypatch, fault, may_be_charged, said):
    monkeypatch.setattr(endpoints, "MOST_BYTES", 2**20)
    with faulty({QUESTIONS[0]: [fault], QUESTIONS[2]: [fault, fault]}) as server:
        # Only what never ends must run into it: a slow machine's good answers must not.
        limit = 1 if fault in ("silence", "drip") else 60
        found, ledger = ask(server, QUESTIONS[:4], timeout=limit, retries=1)
        assert server.flooded < 3 * 2**24  # sockets hold some more than was read
    assert found == ["1", "2", None, "4"]
    assert [server.asked[q] for q in QUESTIONS[:4]] == [2, 1, 2, 1]
    [problem] = ledger.problems
    assert "no answer to" in problem and re.search(said, problem) and len(problem) < 600
    lost = worst(QUESTIONS[0]) + 2 * worst(QUESTIONS[2])
    assert ledger.uncertain == pytest.approx(lost if may_be_charged else 0)


def test_retry_after_holds_back_every_request_those_that_wait_already_included(ask):
    with faulty({QUESTIONS[0]: [(429, {"Retry-After": "1"}, "slow down")]}) as server:
        assert ask(server, QUESTIONS[:2], requests_per_minute=120)[1].problems == []
    first, *others = [at for at, *_ in server.requests]
    assert min(others) - first >= 1  # the second question's turn was after half a second


def test_retry_after_is_seconds_or_a_date():
    dates = {formatdate(time.time() + ahead, usegmt=True): max(ahead, 0) for ahead in (30, -1e9)}
    known = {"3": 3, "0.5": 0.5, "-1": 0, "": None, "soon": None, "inf": None} | dates
    for text, seconds in known.items():
        wanted = pytest.approx(seconds, abs=1.5) if text in dates else seconds
        assert endpoints.retry_after({"retry-after": text}) == wanted


def test_backoff_grows(ask, monkeypatch):
    waits = []
    monkeypatch.setattr(asking.random, "uniform", lambda low, high: waits.append(high) or 0)
    monkeypatch.setattr(asking, "LONGEST_WAIT", 0.05)
    with faulty({"*": [(500, {}, "broken")] * 4}) as server:
        ask(server, QUESTIONS[:1])
    assert waits == [0.01, 0.02, 0.04, 0.05]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((401, {}, "go away"), "asked no further: HTTP 401: .*go away"),
        ((429, {"Retry-After": "86400"}, "tomorrow"), "asks to wait 86,400 s; .*tomorrow"),
        ((429, {}, b'{"error": {"message": "pay", "code": "insufficient_quota"}}'), "pay"),
    ],
    ids=["key", "pause", "quota"],
)
def test_an_endpoint_that_will_not_answer_is_asked_no_further(tmp_path, fault, said):
    with faulty() as good, faulty({"*": [fault] * 50}) as bad:
        both = [endpoint(bad, "b", concurrency=1), endpoint(good)]
        ledger = ask_endpoints(both, QUESTIONS, SHORT, tmp_path / "j")
    assert len(bad.requests) == 1
    assert set(texts(ledger, both[0])) == {None}
    assert texts(ledger, both[1]) == ANSWERS  # one endpoint's faults are not another's
    [problem] = ledger.problems
    assert re.search(said, problem)


def test_an_endpoint_that_fails_and_fails_is_asked_no_further(ask):
    with faulty({"*": [(500, {}, "broken")] * 1000}) as server:
        _, ledger = ask(server, concurrency=1, retries=1)
    assert len(server.requests) == 5 * 2
    assert "5 questions in a row failed" in ledger.problems[-1]
    _, gone = ask(server, concurrency=1, retries=0)
    assert "no connection" in gone.problems[0]
    assert gone.uncertain == 0  # nothing was sent


# -- limits --------------------------------------------------------------------------------------


def test_no_more_requests_at_a_time_than_allowed(ask):
    with faulty(delay=0.03) as server:
        ask(server, concurrency=3)
    assert server.most_open == 3


@pytest.mark.parametrize(
    ("field", "most"), [("requests_per_minute", 1), ("tokens_per_minute", 1 + 64 + 8)]
)
def test_requests_keep_their_distance(ask, field, most):
    with faulty() as server:
        started = time.monotonic()
        ask(server, QUESTIONS[:6], **{field: most * 600})
    assert server.requests[-1][0] - started >= 0.5  # 0.1 s apart, however late one arrives


def test_the_cap_is_never_exceeded_even_at_worst(ask):
    most = worst(QUESTIONS[-1])
    cap = 1.3 * most
    with faulty() as server:
        ledger = ask(server, cap_usd=cap)[1]
        assert cap - most < ledger.spent <= cap  # and it is made use of
        n_first = len(server.requests)
        assert 0 < n_first < len(QUESTIONS)
        assert "the cap of" in ledger.problems[0] and "raise cap_usd" in ledger.problems[0]
        assert ask(server, cap_usd=cap)[1].spent == ledger.spent
        assert len(server.requests) == n_first  # runs before count
        assert ask(server, cap_usd=100)[1].problems == []
    assert server.answered == dict.fromkeys(QUESTIONS, 1)


def test_lost_answers_count_against_the_cap(ask):
    with faulty({QUESTIONS[0]: ["cut"] * 10}) as server:
        _, ledger = ask(server, QUESTIONS[:1], cap_usd=2.5 * worst(QUESTIONS[0]))
    assert len(server.requests) == 2
    assert ledger.uncertain == pytest.approx(2 * worst(QUESTIONS[0]))


def test_a_cap_without_a_price_is_refused_before_anything_is_asked(ask):
    with faulty() as server, pytest.raises(InputError, match=r"price of target 'a'.*mean 'aa'"):
        ask(server, prices=Prices({"aa": 1.0}, {"aa": 1.0}), cap_usd=1.0)
    with faulty() as other, pytest.raises(InputError, match="price of target 'a'"):
        ask(other, prices=None, cap_usd=1.0)
    assert server.requests == other.requests == []


# -- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [{}, {QUESTIONS[1]: ["silence"]}], ids=["busy", "hanging"])
def test_an_interrupted_run_goes_on_where_it_stopped(ask, tmp_path, monkeypatch, faults):
    def interrupted(iterable, *_):
        for _ in range(4):
            yield next(iterable)
        raise KeyboardInterrupt

    with faulty(faults, delay=0.02) as server:
        started = time.monotonic()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(asking, "track", interrupted)
            ask(server, concurrency=2)
        assert time.monotonic() - started < 4  # the server is silent for longer
        written = (tmp_path / "j").read_text()
        time.sleep(0.1)
        assert (tmp_path / "j").read_text() == written  # nobody goes on in secret
        kept, n_before = written.count('"answered"'), len(server.requests)
        found, ledger = ask(server)
    assert 4 <= kept < len(QUESTIONS)
    assert found == ANSWERS
    assert len(server.requests) == n_before + len(QUESTIONS) - kept
    lost = written.count('"asked"') - kept
    assert 0 < ledger.uncertain <= lost * worst(QUESTIONS[-1]) if lost else ledger.uncertain == 0
    assert lost if faults else lost <= 2


def test_a_full_disk_stops_the_asking(ask, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ledger, "answer", full)
    with faulty() as server, pytest.raises(OSError, match="No space"):
        ask(server, concurrency=2)
    assert len(server.requests) <= 2


def kill_at_random_moments(one, journal):
    """Kill collections into a journal, and return how many answers it holds after each kill."""

    def count(what):
        return journal.read_bytes().count(what) if journal.exists() else 0

    rng, kept = random.Random(0), []
    work, n_lines = partial(ask_endpoints, [one], MANY, SHORT, journal), partial(count, b"\n")
    for _ in range(12):
        is_killed(work, n_lines, n_lines() + rng.randrange(12), rng.uniform(0, 0.02))
        kept.append(count(b'"answered"'))
    return kept


def test_killed_at_random_moments_nothing_answered_is_asked_for_twice(ask, tmp_path):
    """A child is killed again and again; its journal says what it had been paid for."""
    journal = tmp_path / "j"
    with faulty({MANY[3]: ["cut"], MANY[5]: [(500, {}, "x")]}, delay=0.01) as server:
        kept = alone(kill_at_random_moments, endpoint(server, concurrency=2), journal)
        assert len({n for n in kept if 0 < n < len(MANY)}) >= 5  # killed on the way
        found, _ = ask(server, MANY)
    assert found == [str(n) for n in range(1, 41)]
    attempts, answered = {}, {}
    for place, line in enumerate(journal.read_text().splitlines()):
        record = json.loads(line)
        if record["event"] == "asked":
            attempts.setdefault(record["key"], []).append(place)
        elif record["event"] == "answered":
            assert answered.setdefault(record["key"], place) == place
    assert len(answered) == len(MANY)
    for question in MANY:
        key = endpoint(server).answer_key(question, SHORT)
        assert max(attempts[key]) < answered[key]  # not asked again once its answer is kept
        # what reached the server was on disk before it was sent
        assert server.asked[question] <= len(attempts[key])
    lost = sum(map(len, attempts.values())) - len(answered)
    assert lost <= 2 * len(kept) + 2  # at most what was in flight at each kill, and two faults


# -- secrets -------------------------------------------------------------------------------------


def test_the_key_is_in_no_log_error_or_file(ask, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MINE", SECRET)
    caplog.set_level(logging.DEBUG)
    answer = {"choices": [{"message": {"content": f"Bearer {SECRET}"}}]}
    faults = {
        QUESTIONS[0]: [json.dumps(answer).encode()],
        QUESTIONS[1]: [(500, {}, f"Bearer {SECRET}")] * 2,
        QUESTIONS[2]: [f'"{SECRET}" is no JSON'.encode()] * 2,
        QUESTIONS[3]: [(400, {}, f"{'x' * 290} {SECRET}")] * 2,
        QUESTIONS[4]: [(401, {}, f"Incorrect API key: {SECRET}")],
    }
    with faulty(faults) as server:
        found, ledger = ask(server, QUESTIONS[:6], key="MINE", concurrency=1, retries=1)
    assert all(SECRET in headers["Authorization"] for _, _, headers, _ in server.requests)
    assert found[0] == "Bearer [MINE]"
    assert len(ledger.problems) == 4
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    said = capfd.readouterr()
    about = str(vars(ledger)), repr(endpoint(server))
    for text in (written, caplog.text, said.out, said.err, *about):
        assert SECRET[:12] not in text  # nor a part of it, cut off
    assert "[MINE]" in ledger.problems[0]
