import io
import sys

import numpy as np

from prefill_router.progress import meter, note, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_are_for_terminals_and_notes_for_logs(monkeypatch):
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with meter("Reading", np.array([1000, 2000, 3000])) as advance:
            advance(np.array([3000]))
            advance(np.array([1000, 2000]))
        assert list(track([1, 2], "Counting")) == [1, 2]
        note("chapter 1: 3 s")
        shown = stream.getvalue()
        if stream.isatty():
            assert all(part in shown for part in ("Reading", "tok/s", "Counting"))
            assert "chapter" not in shown
        else:
            assert shown == "chapter 1: 3 s\n"
