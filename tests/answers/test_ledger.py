import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router.answers import ledger as module
from prefill_router.answers.ledger import Journal, Ledger, Reply
from prefill_router.errors import InputError

RECORDS = [{"a": 1}, {"text": "zwei\nZeilen 😀 \ud83d \x00"}, {"none": None}]


def write(path, records=RECORDS):
    with Journal(path) as journal:
        for record in records:
            journal.append(record)


def read(path):
    with Journal(path) as journal:
        return journal.records


def test_a_record_is_on_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(module.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with Journal(tmp_path / "j") as journal:
        synced.clear()
        for record in RECORDS:
            journal.append(record)
            assert synced[-1] == (tmp_path / "j").stat().st_size
    assert len(synced) == len(RECORDS)


def test_a_journal_cut_anywhere_keeps_all_that_was_whole(tmp_path):
    path = tmp_path / "new" / "j"
    write(path)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = whole[:size].count(b"\n")
        write(path, [{"next": size}])
        assert read(path) == [*RECORDS[:kept], {"next": size}]


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=40).filter(lambda tail: b"\n" not in tail))
def test_any_torn_tail_is_dropped(tail):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "j"
        write(path)
        path.write_bytes(path.read_bytes() + tail)
        assert read(path) == RECORDS


def test_a_line_that_was_altered_is_named(tmp_path):
    path = tmp_path / "j"
    for line in (b"nonsense", b"[1]", b"\xff", b""):
        path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
        with pytest.raises(InputError, match="line 2: no JSON object"):
            Journal(path)
    write(tmp_path / "other")  # an error lets go of the file
    path.write_bytes(b'{"a": 1}\nnonsense\n')  # as a crash of the machine may leave it
    assert read(path) == [{"a": 1}]


def test_two_at_once_are_refused(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.append({"a": 1})
        with pytest.raises(InputError, match="in use"):
            Journal(tmp_path / "j")
    assert read(tmp_path / "j") == [{"a": 1}]


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append({"a": 1})
        real = os.pwrite

        def half(handle, data, offset):
            real(handle, data[:3], offset)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.os, "pwrite", half)
        with pytest.raises(OSError, match="No space"):
            journal.append({"b": 2})
        monkeypatch.setattr(module.os, "pwrite", real)
        journal.append({"c": 3})
    assert read(path) == [{"a": 1}, {"c": 3}]


def reply(cost=0.25):
    return Reply("seven", 10, 2, "stop", cost)


def test_answers_and_spending_survive(tmp_path):
    with Ledger(tmp_path / "l", cap_usd=1.0) as ledger:
        first = ledger.ask("a", 0.5)
        assert (ledger.spent, ledger.uncertain, ledger.in_flight) == (0, 0.5, 1)
        ledger.answer(first, "a", reply())
        assert (ledger.spent, ledger.uncertain, ledger.in_flight) == (0.25, 0, 0)
        ledger.refuse(ledger.ask("b", 0.5))
        ledger.lose(ledger.ask("c", 0.125))
        ledger.ask("d", 0.125)  # and then the process dies
    with Ledger(tmp_path / "l", cap_usd=1.0) as again:
        assert again.answers == {"a": reply()}
        assert (again.spent, again.uncertain, again.in_flight) == (0.25, 0.25, 0)
        assert again.allows(0.5) and not again.allows(0.51)
        assert again.ask("e", 0.0) == 4  # numbers are never used twice


def test_an_answer_of_unknown_cost_counts_as_the_most_it_can_have_cost(tmp_path):
    for _ in range(2):
        with Ledger(tmp_path / "l", cap_usd=1.0) as ledger:
            if not ledger.answers:
                ledger.answer(ledger.ask("a", 0.75), "a", reply(None))
            assert (ledger.spent, ledger.uncertain, ledger.in_flight) == (0, 0.75, 0)
            assert not ledger.allows(0.3)
    with Ledger(tmp_path / "l") as ledger:  # without a cap everything is allowed
        assert ledger.allows(1e9)


def test_a_foreign_journal_is_refused(tmp_path):
    path = tmp_path / "l"
    for line in (
        '{"event": "asked", "attempt": 0}',
        '{"event": "answered", "attempt": 7, "key": "a", "reply": {}}',
        '{"event": "refused", "attempt": 7}',
        '{"something": "else"}',
    ):
        path.write_text(line + '\n{"event": "asked", "attempt": 1, "worst_usd": 0}\n')
        for _ in range(2):  # and let go of
            with pytest.raises(InputError, match="record 1, is none of this version's"):
                Ledger(path)
