"""Work beside the device's: one thread ahead of it, one behind it, neither far away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

A, B = TypeVar("A"), TypeVar("B")
DEPTH = 2  # how many results may wait: enough to bridge an uneven batch, few enough for memory


def ahead(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield ``function(item)`` of each item, worked out in a thread before it is asked for."""
    pool, waiting = ThreadPoolExecutor(1), deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > DEPTH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def behind(function: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Yield a function that has `function` called in a thread, in order.

    It waits where too much is left to do. An error in the thread is raised by the next call, or at
    the end, which waits for all that is left; also where the block fails, so that nothing is lost
    that was handed over.
    """
    pool, waiting = ThreadPoolExecutor(1), deque()

    def submit(*arguments: Any) -> None:
        waiting.append(pool.submit(function, *arguments))
        if len(waiting) > DEPTH:
            waiting.popleft().result()

    try:
        try:
            yield submit
        finally:
            while waiting:
                waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
