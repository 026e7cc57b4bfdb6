"""Processes of their own, and forks of them that are killed on their way."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor


def alone(function, *arguments):
    """Return what a function returns in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def is_killed(work, progress, wanted, delay):
    """Fork, and kill the fork at its work; say whether it was killed before it had done.

    A fork of a process that has loaded everything starts at once. It is killed so many seconds
    after `progress` has reached what is wanted, so that a slow machine is killed on the way, too.
    """
    child, ended = os.fork(), 0
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    while not ended and progress() < wanted:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.0005)
    if not ended:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, "the work failed"
    return os.WIFSIGNALED(status)
