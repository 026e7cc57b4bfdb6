"""An extraction killed at any moment ends with the same bytes, and none needs more memory for more.

Both are measured in processes of their own, started from this module.
"""

import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import tiny_models
import torch
from architectures import SHAPE
from tqdm import tqdm
from transformers import LlamaConfig, LlamaModel

from prefill_router import extraction
from prefill_router.extraction import batches, extract
from prefill_router.extraction.activations import Activations
from prefill_router.extraction.sources import resolve

QUESTIONS = tiny_models.questions(300)
N_KILLS = 12


def alone(function, *arguments):
    """Return what a function returns in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def fork(source, directory):
    """Start an extraction: a fork of a process that has loaded everything starts at once."""
    child = os.fork()
    if not child:
        try:
            extract(source, QUESTIONS, cache_dir=directory)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def shards(directory):
    return list(directory.glob("*/shard-*"))


def kill_at_random_moments(directory):
    """Kill extractions into `killed-0` until one has finished, then into `killed-1`, and so on."""
    extraction.SHARD_BYTES, batches.CPU_TOKENS = 8 * 2**10, (1, 60)
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tqdm.set_lock(threading.RLock())  # the default one is shared, and a killed child may hold it
    source = resolve(str(tiny_models.save(directory / "model")))
    extract(source, QUESTIONS, cache_dir=directory / "undisturbed")
    rng, n_killed, run = random.Random(0), 0, 0
    while True:
        target = directory / f"killed-{run}"
        # Shards are the clock, so that a slow machine is killed on the way as well.
        wanted = len(shards(target)) + rng.randrange(5) if n_killed < N_KILLS else 10**6
        child, ended = fork(source, target), 0
        while not ended and len(shards(target)) < wanted:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.0005)
        if not ended:
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            n_killed += 1
            continue
        assert status == 0, "an extraction failed"
        if n_killed == N_KILLS:
            return
        run += 1


def contents(directory):
    """Return the files of a directory, without those that say who is at work in it."""
    return {p.name: p.read_bytes() for p in directory.glob("*/[!.]*")}


def test_killed_at_random_moments(tmp_path):
    alone(kill_at_random_moments, tmp_path)
    undisturbed = contents(tmp_path / "undisturbed")
    assert len(undisturbed) > N_KILLS, "many shards, so that many moments differ"
    for directory in sorted(tmp_path.glob("killed-*")):
        assert contents(directory) == undisturbed
    (folder,) = (tmp_path / "killed-0").glob("*")
    assert len(Activations.open(folder, QUESTIONS)) == 300


def growth(directory, few, many):
    """Return by how many MiB the process grows from reading few queries to reading many."""
    extraction.SHARD_BYTES, batches.CPU_TOKENS = 2 * 2**20, (1, 1024)
    shape = {**SHAPE, "hidden_size": 256, "num_key_value_heads": 2}
    LlamaModel(LlamaConfig(**shape)).save_pretrained(directory / "model")
    tiny_models.tokenizer().save_pretrained(directory / "model")
    source, questions, peaks = resolve(str(directory / "model")), tiny_models.questions(many), []
    for n in (few, many):
        extract(source, questions[-n:], cache_dir=directory / str(n))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
    return peaks[1] - peaks[0]


def test_many_queries_need_no_more_memory_than_few(tmp_path):
    """Their states alone are 43 MiB more."""
    assert alone(growth, tmp_path, 500, 6_000) < 16
