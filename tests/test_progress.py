import io
import sys

import pytest

from prefill_router.progress import meter, note, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_is_shown_only_where_somebody_watches(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    with meter("Reading", 10, 5000) as advance:
        advance(4, 3000)
        advance(6, 2000)
    shown = sys.stderr.getvalue()
    assert list(track([1, 2], "Counting")) == [1, 2]
    if stream is Terminal:
        assert "Reading" in shown
        assert "tok/s" in shown
        assert "Counting" in sys.stderr.getvalue()
    else:
        assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_note_is_for_logs(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    note("chapter 1: 3 s")
    assert sys.stderr.getvalue() == ("" if stream is Terminal else "chapter 1: 3 s\n")
