"""Kill an extraction at random moments until it has finished; run by `test_faults`.

``python tests/faults.py DIRECTORY N_KILLS``: children are forked from one process that has loaded
everything, so that each costs an extraction and no start of Python.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import tiny_models
import torch

from prefill_router import extraction
from prefill_router.extraction import streaming
from prefill_router.extraction.models import resolve
from prefill_router.extraction.streaming import extract

streaming.SHARD_BYTES = 8 * 2**10
extraction.CPU_TOKENS = (1, 60)
QUESTIONS = tiny_models.questions(300)


def fork(source, directory):
    child = os.fork()
    if not child:
        try:
            extract(source, QUESTIONS, directory)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def kill_at_random(source, directory, longest, rng):
    """Run and kill extractions into a directory until one finishes; return how many were killed."""
    killed = 0
    while True:
        child = fork(source, directory)
        deadline = time.monotonic() + rng.uniform(0, longest)
        ended = 0
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.0005)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "an extraction failed"
            return killed
        killed += 1


def main(directory, n_kills):
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    source = resolve(str(tiny_models.save(directory / "model")))
    extract(source, QUESTIONS[:3], directory / "warm")
    begun = time.monotonic()
    _, status = os.waitpid(fork(source, directory / "undisturbed"), 0)
    assert status == 0
    longest = time.monotonic() - begun
    rng = random.Random(0)
    killed = run = 0
    while killed < n_kills:
        killed += kill_at_random(source, directory / f"killed-{run}", longest, rng)
        run += 1
    print(f"{killed} kills in {run} runs of {longest:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
