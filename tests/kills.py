"""Kill a collection at random moments, again and again; run by `test_asking`.

``python tests/kills.py BASE_URL JOURNAL N_KILLS QUESTION...``: children are forked from one process
that has loaded everything. After each kill, print how many answers the journal holds.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from prefill_router.answers.asking import ask_endpoints
from prefill_router.answers.generation import Decoding
from prefill_router.answers.targets import Endpoint


def fork(base_url, journal, questions):
    child = os.fork()
    if not child:
        try:
            endpoint = Endpoint(name="a", base_url=base_url, model="m", concurrency=2)
            ask_endpoints([endpoint], questions, Decoding(8), journal)
        finally:
            os._exit(0)
    return child


def n_lines(journal):
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def main(base_url, journal, n_kills, questions):
    rng = random.Random(0)
    for _ in range(n_kills):
        # The journal's growth is the clock, so that a slow machine is killed on the way as well.
        wanted = n_lines(journal) + rng.randrange(12)
        child = fork(base_url, journal, questions)
        while n_lines(journal) < wanted and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        text = journal.read_text() if journal.exists() else ""
        print(text.count('"answered"'), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
