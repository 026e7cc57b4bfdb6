"""An extraction killed at any moment ends with the same bytes, and none needs more memory for more.

Both are measured in processes of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import tiny_models

from prefill_router.extraction.activations import Activations

TESTS = Path(__file__).parent


def run(script, *arguments):
    command = [sys.executable, TESTS / script, *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(directory):
    """Return the files of a directory, without those that say who is at work in it."""
    return {p.name: p.read_bytes() for p in directory.glob("*/[!.]*")}


def test_killed_at_30_random_moments(tmp_path):
    run("faults.py", tmp_path, 30)
    undisturbed = contents(tmp_path / "undisturbed")
    assert len(undisturbed) > 12, "many shards, so that many moments differ"
    killed = sorted(tmp_path.glob("killed-*"))
    (folder,) = killed[0].glob("*")
    assert killed
    for directory in killed:
        assert contents(directory) == undisturbed
    assert len(Activations.open(folder, tiny_models.questions(300))) == 300


def test_ten_times_as_many_queries_need_no_more_memory(tmp_path):
    """Their states alone are 140 MiB more."""
    few = float(run("peak_memory.py", tmp_path / "few", 2_000))
    many = float(run("peak_memory.py", tmp_path / "many", 20_000))
    assert many < few + 16
