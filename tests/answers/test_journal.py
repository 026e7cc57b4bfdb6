import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router.answers import journal as module
from prefill_router.answers.journal import Journal
from prefill_router.errors import InputError

RECORDS = [{"a": 1}, {"text": "zwei\nZeilen 😀 \ud83d \x00"}, {"none": None}]


def write(path, records=RECORDS):
    with Journal(path) as journal:
        for record in records:
            journal.append(record)


def read(path):
    with Journal(path) as journal:
        return journal.records


def test_what_was_appended_is_read_again(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    write(path)
    assert read(path) == RECORDS
    write(path, [{"more": 2}])
    assert read(path) == [*RECORDS, {"more": 2}]


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
    path = tmp_path / "j"
    write(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        assert read(path) == RECORDS[:kept]
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
