"""One process at a time in a directory: the others wait, and say so."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
HOLDER = ".holder"  # a file of its own: whoever tries to lock the other one empties it


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a directory against other processes; a process that is killed lets go of it.

    Where another one holds it, that is said once, on standard error, and waited for.
    """
    lock, holder = FileLock(directory / LOCK), directory / HOLDER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            f"{directory} is being written by {_who(holder)}; waiting until that one is done.",
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


def _who(holder: Path) -> str:
    with contextlib.suppress(OSError):  # it may just have begun, or ended
        if who := holder.read_text(encoding="utf-8"):
            return who
    return "another process"
