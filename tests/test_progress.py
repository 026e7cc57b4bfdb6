import io
import sys

import pytest

from prefill_router.progress import meter, track


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
