import multiprocessing
import os
import signal
import threading
import time

import pytest

from prefill_router.extraction.concurrency import (
    DEPTH,
    HOLDER,
    directory_lock,
    prefetch,
    write_behind,
)


def test_prefetch_keeps_order_and_is_ahead_but_not_far():
    begun = []
    results = prefetch(lambda item: begun.append(item) or threading.get_ident(), range(20))
    assert next(results) != threading.get_ident()
    deadline = time.monotonic() + 5
    while len(begun) < DEPTH + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.01)
    assert begun == list(range(DEPTH + 1))
    results.close()
    assert begun == list(range(DEPTH + 1))
    assert list(prefetch(str, range(20))) == [str(item) for item in range(20)]


def test_write_behind_calls_in_order_and_does_not_pile_up():
    done, gate = [], threading.Event()

    def work(item):
        gate.wait(5)
        done.append(item)

    with write_behind(work) as put:
        for item in range(DEPTH):
            put(item)  # returns though nothing is done
        assert done == []
        threading.Timer(0.01, gate.set).start()
        put(DEPTH)  # waits for the first
        assert done[0] == 0
    assert done == list(range(DEPTH + 1))


def fail(item):
    raise ValueError("at 1")


def test_errors_arrive_and_what_was_handed_over_is_done_all_the_same():
    with pytest.raises(ValueError, match="at 1"):
        list(prefetch(fail, range(3)))
    with pytest.raises(ValueError, match="at 1"), write_behind(fail) as put:
        put(1)
    done = []
    with pytest.raises(KeyError), write_behind(done.append) as put:
        put(1)
        put(2)
        raise KeyError
    assert done == [1, 2]


def hold(directory, held, wanted_by):
    with directory_lock(directory):
        held.set()
        wanted_by.wait()
        os.kill(os.getpid(), signal.SIGKILL)  # and so never tidies up


def test_who_is_waited_for_is_said_once_and_who_was_killed_holds_nothing(tmp_path, capsys):
    context = multiprocessing.get_context("fork")
    held, wanted = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, wanted))
    other.start()
    assert held.wait(30)
    threading.Timer(0.3, wanted.set).start()
    with directory_lock(tmp_path):
        other.join()
        assert (tmp_path / HOLDER).read_text().startswith(f"process {os.getpid()} on ")
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path} is being written by process {other.pid} on ")
    assert said.count("\n") == 1
    assert not (tmp_path / HOLDER).exists()
    with pytest.raises(KeyError), directory_lock(tmp_path):
        raise KeyError
    assert capsys.readouterr().err == ""
