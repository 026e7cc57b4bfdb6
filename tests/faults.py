"""Kill an extraction at random moments until it has finished; run by `test_faults`.

``python tests/faults.py DIRECTORY N_KILLS``: children are forked from one process that has loaded
everything, so that each costs an extraction and no start of Python.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import tiny_models
import torch
from tqdm import tqdm

from prefill_router import extraction
from prefill_router.extraction import batches, extract
from prefill_router.extraction.sources import resolve

extraction.SHARD_BYTES = 8 * 2**10
batches.CPU_TOKENS = (1, 60)
QUESTIONS = tiny_models.questions(300)


def fork(source, directory):
    child = os.fork()
    if not child:
        try:
            extract(source, QUESTIONS, cache_dir=directory)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def n_shards(directory):
    return len(list(directory.glob("*/shard-*.safetensors")))


def kill_at_random(source, directory, n_kills, rng):
    """Kill up to `n_kills` extractions into a directory, then let one finish; count the kills."""
    for killed in range(n_kills):
        # Shards are the clock, so that a slow machine is killed on the way as well.
        wanted = n_shards(directory) + rng.randrange(5)
        child = fork(source, directory)
        ended = 0
        while not ended and n_shards(directory) < wanted:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.0005)
        if not ended:
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert status == 0, "an extraction failed"
            return killed
    _, status = os.waitpid(fork(source, directory), 0)
    assert status == 0, "an extraction failed"
    return n_kills


def main(directory, n_kills):
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tqdm.set_lock(threading.RLock())  # the default one is shared, and a killed child may hold it
    source = resolve(str(tiny_models.save(directory / "model")))
    extract(source, QUESTIONS[:3], cache_dir=directory / "warm")
    _, status = os.waitpid(fork(source, directory / "undisturbed"), 0)
    assert status == 0
    rng = random.Random(0)
    killed = run = 0
    while killed < n_kills:
        killed += kill_at_random(source, directory / f"killed-{run}", n_kills - killed, rng)
        run += 1
    print(f"{killed} kills in {run} runs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
