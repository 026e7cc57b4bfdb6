"""Print by how many MiB an extraction of N queries raises the memory above the model's own.

``python tests/peak_memory.py DIRECTORY N``; run by `test_faults`.
"""

import resource
import sys
from pathlib import Path

import tiny_models
from architectures import SHAPE as TINY
from transformers import LlamaConfig, LlamaModel

from prefill_router import extraction
from prefill_router.extraction import batches, extract
from prefill_router.extraction.sources import resolve

extraction.SHARD_BYTES = 2 * 2**20
batches.CPU_TOKENS = (1, 1024)
SHAPE = {**TINY, "hidden_size": 256, "num_key_value_heads": 2}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(directory, n):
    directory.mkdir()
    LlamaModel(LlamaConfig(**SHAPE)).save_pretrained(directory / "model")
    tiny_models.tokenizer().save_pretrained(directory / "model")
    source = resolve(str(directory / "model"))
    questions = tiny_models.questions(n)
    extract(
        source, questions[:500], cache_dir=directory / "warm"
    )  # what any extraction loads and allocates
    before = peak()
    extract(source, questions, cache_dir=directory / "out")
    print(peak() - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
