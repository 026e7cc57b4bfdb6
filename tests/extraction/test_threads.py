import threading
import time

import pytest

from prefill_router.extraction.threads import DEPTH, ahead, behind


def test_ahead_keeps_order_and_works_in_another_thread():
    def work(item):
        return item, threading.get_ident()

    found = list(ahead(work, range(20)))
    assert [item for item, _ in found] == list(range(20))
    assert {thread for _, thread in found}.isdisjoint({threading.get_ident()})
    assert list(ahead(work, [])) == []


def test_ahead_is_ahead_but_not_far():
    begun = []
    results = ahead(begun.append, range(20))
    next(results)
    deadline = time.monotonic() + 5
    while len(begun) < DEPTH + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.01)
    assert begun == list(range(DEPTH + 1))
    results.close()
    assert begun == list(range(DEPTH + 1))


def test_behind_calls_in_order_and_does_not_pile_up():
    done, gate = [], threading.Event()

    def work(item):
        gate.wait(5)
        done.append(item)

    with behind(work) as put:
        for item in range(DEPTH):
            put(item)  # returns though nothing is done
        assert done == []
        threading.Timer(0.01, gate.set).start()
        put(DEPTH)  # waits for the first
        assert done[0] == 0
    assert done == list(range(DEPTH + 1))


def fail(item):
    if item == 1:
        raise ValueError("at 1")


def test_errors_arrive():
    with pytest.raises(ValueError, match="at 1"):
        list(ahead(fail, range(3)))
    with pytest.raises(ValueError, match="at 1"), behind(fail) as put:
        put(1)
    with pytest.raises(KeyError), behind(fail) as put:
        raise KeyError


def test_what_was_handed_over_is_done_though_the_block_fails():
    done = []

    def work(item):
        time.sleep(0.01)
        done.append(item)

    with pytest.raises(KeyError), behind(work) as put:
        put(1)
        put(2)
        raise KeyError
    assert done == [1, 2]
