import os
import resource

import pytest

from prefill_router.answers.ledger import Reply, open_ledger
from prefill_router.errors import InputError


def reply(cost=0.25, text="zwei\nZeilen 😀 \ud83d \x00"):
    return Reply(text, 10, 2, "stop", cost)


def state(ledger):
    return dict(ledger.answers), ledger.spent, ledger.uncertain


def fill(path):
    """Write each kind of record; return the state after each, the first without any."""
    with open_ledger(path) as ledger:
        states = [state(ledger)]
        for step in (
            lambda: ledger.ask("a", 0.5), lambda: ledger.answer(0, "a", reply()),
            lambda: ledger.ask("b", 0.5), lambda: ledger.fail(1, may_be_charged=False),
            lambda: ledger.ask("c", 0.125), lambda: ledger.answer(2, "c", reply(None)),
            lambda: ledger.ask("d", 0.125),  # and then the process dies
        ):  # fmt: skip
            step()
            states.append(state(ledger))
    return states


def test_a_record_is_on_disk_before_what_it_says_counts(tmp_path, monkeypatch):
    synced, path = [], tmp_path / "l"
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes().count(b"\n")))
    fill(path)
    assert synced == list(range(8))  # the first is the directory's


def test_answers_and_spending_survive_and_a_ledger_cut_anywhere_keeps_all_that_was_whole(tmp_path):
    path = tmp_path / "new" / "l"
    states = fill(path)
    whole = path.read_bytes()
    assert states[-1] == ({"a": reply(), "c": reply(None)}, 0.25, 0.25)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        lines = whole[: whole.rfind(b"\n", 0, size) + 1]
        with open_ledger(path) as ledger:
            assert state(ledger) == states[lines.count(b"\n")]
            assert ledger.in_flight == 0
            # numbers are never used twice
            assert ledger.ask("e", 0.0) == lines.count(b'"asked"')
        assert path.read_bytes().startswith(lines)


@pytest.mark.parametrize(
    ("text", "finish"),
    [("", "stop"), (" \n", "length"), ("The ans", "content_filter"), ("1", "error")],
)
def test_a_reply_that_is_no_answer_is_charged_and_to_be_asked_again(tmp_path, text, finish):
    with open_ledger(tmp_path / "l") as ledger:
        ledger.answer(ledger.ask("a", 0.5), "a", Reply(text, 10, 2, finish, 0.25))
    with open_ledger(tmp_path / "l") as again:  # as those before this was told apart
        assert state(again) == state(ledger) == ({}, 0.25, 0)
        assert again.asked == {"a"}


def test_what_the_cap_allows(tmp_path):
    with open_ledger(tmp_path / "l", cap_usd=1.0) as ledger:
        first = ledger.ask("a", 0.5)
        assert (ledger.in_flight, ledger.allows(0.5), ledger.allows(0.51)) == (1, True, False)
        ledger.answer(first, "a", reply())
        ledger.fail(ledger.ask("b", 0.25), may_be_charged=True)
        assert (ledger.in_flight, ledger.allows(0.5), ledger.allows(0.51)) == (0, True, False)
    with open_ledger(tmp_path / "l") as ledger:  # without a cap everything is allowed
        assert ledger.allows(1e9)


def test_a_line_that_is_altered_or_foreign_is_named(tmp_path):
    path = tmp_path / "l"
    good = b'{"event": "asked", "attempt": 1, "key": "k", "worst_usd": 0.5}\n'
    for line in (
        b"nonsense", b"[1]", b"\xff", b"", b'{"event": "asked", "attempt": 0}',
        b'{"event": "answered", "attempt": 7, "key": "a", "reply": {}}',
        b'{"event": "refused", "attempt": 7}', b'{"something": "else"}',
    ):  # fmt: skip
        path.write_bytes(good + line + b"\n" + good)
        with pytest.raises(InputError, match="line 2: no record"):
            open_ledger(path).__enter__()
        assert path.read_bytes() == good + line + b"\n" + good


def test_what_a_crash_of_the_machine_leaves_at_the_end_is_dropped(tmp_path):
    path, states = tmp_path / "l", fill(tmp_path / "l")
    whole = path.read_bytes()
    for tail in (b"\0\0\xff", b'{"event": "ask', b"nonsense\n"):
        path.write_bytes(whole + tail)
        with open_ledger(path) as ledger:
            assert state(ledger) == states[-1]
        assert path.read_bytes() == whole


def test_two_at_once_are_refused(tmp_path):
    with open_ledger(tmp_path / "l"), pytest.raises(InputError, match="in use"):
        open_ledger(tmp_path / "l").__enter__()


def test_a_full_disk_leaves_no_half_line(tmp_path):
    path, limits = tmp_path / "l", resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_ledger(path) as ledger:
        ledger.ask("a", 0.5)
        whole = path.stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 3, limits[1]))
            with pytest.raises(OSError, match="too large"):
                ledger.ask("b", 0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (ledger.uncertain, path.stat().st_size) == (0.5, whole)
        ledger.ask("c", 0.25)
    with open_ledger(path) as ledger:
        assert ledger.uncertain == 0.75
