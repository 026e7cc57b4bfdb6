"""Work beside the device's, in threads, and one process at a time in a directory."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

A, B = TypeVar("A"), TypeVar("B")
DEPTH = 2  # how many results may wait: enough to bridge an uneven batch, few enough for memory
LOCK = ".lock"
HOLDER = ".holder"  # a file of its own: whoever tries to lock the other one empties it


def prefetch(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield ``function(item)`` of each item, computed in a thread before it is asked for."""
    waiting = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > DEPTH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def write_behind(function: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Yield a function that has `function` called in a thread, in order.

    It waits where too much is left to do. An error in the thread is raised by a later call, or at
    the end, which waits for all that is left, also where the block fails.
    """
    waiting = deque()

    def submit(*arguments: Any) -> None:
        waiting.append(pool.submit(function, *arguments))
        if len(waiting) > DEPTH:
            waiting.popleft().result()

    with ThreadPoolExecutor(1) as pool:
        try:
            yield submit
        finally:
            while waiting:
                waiting.popleft().result()


@contextlib.contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold a directory against other processes; a process that is killed releases it.

    Where another process holds it, that is said once, on standard error, and waited for.
    """
    lock, holder = FileLock(directory / LOCK), directory / HOLDER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = "another process"
        with contextlib.suppress(OSError):  # it may just have begun, or ended
            who = holder.read_text(encoding="utf-8") or who
        print(
            f"{directory} is being written by {who}; waiting until it is done.",
            file=sys.stderr,
            flush=True,
        )
        lock.acquire()
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
