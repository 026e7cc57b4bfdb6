import multiprocessing
import os
import signal

import pytest

from prefill_router.extraction.locks import HOLDER, alone_in


def hold(directory, held, wanted_by):
    with alone_in(directory):
        held.set()
        wanted_by.wait()
        os.kill(os.getpid(), signal.SIGKILL)  # and so never tidies up


def test_who_is_waited_for_is_said_once_and_who_was_killed_holds_nothing(tmp_path, capsys):
    context = multiprocessing.get_context("fork")
    held, wanted = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, wanted))
    other.start()
    assert held.wait(30)
    context.Process(target=lambda: (__import__("time").sleep(0.3), wanted.set())).start()
    with alone_in(tmp_path):
        other.join()
        assert (tmp_path / HOLDER).read_text().startswith(f"process {os.getpid()} on ")
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path} is being written by process {other.pid} on ")
    assert said.count("\n") == 1
    assert not (tmp_path / HOLDER).exists()


def test_nothing_is_said_where_nobody_is_waited_for(tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(KeyError), alone_in(tmp_path):
            raise KeyError
    assert capsys.readouterr().err == ""
