"""An extraction killed at any moment ends with the same bytes, and none needs more memory for more.

Both are measured in processes of their own, started from this module.
"""

import os
import random
import resource
import threading
from functools import partial

import tiny_models
import torch
from architectures import SHAPE
from kills import alone, is_killed
from tqdm import tqdm
from transformers import LlamaConfig, LlamaModel

from prefill_router import extraction
from prefill_router.extraction import batches, extract
from prefill_router.extraction.activations import Activations
from prefill_router.extraction.sources import resolve

QUESTIONS = tiny_models.questions(300)
N_KILLS = 12


def n_shards(directory):
    return len(list(directory.glob("*/shard-*")))


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
        work = partial(extract, source, QUESTIONS, cache_dir=target)
        wanted = n_shards(target) + rng.randrange(5) if n_killed < N_KILLS else 10**6
        if is_killed(work, partial(n_shards, target), wanted, rng.uniform(0, 0.03)):
            n_killed += 1
        elif n_killed == N_KILLS:
            return
        else:
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
    (folder,) = (tmp_path / "killed-0").glob("[!.]*")
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
