"""A cluster of this machine with two workers writes what one process does, byte for byte."""

import os
import sys

import psutil
import pytest
import tiny_models
import torch

from prefill_router import shards, streaming, writer
from prefill_router.models import resolve
from prefill_router.streaming import extract

QUESTIONS = tiny_models.questions(60)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray = pytest.importorskip("ray")
    before = dict(os.environ)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def one_thread_and_small_shards(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(streaming, "SHARD_BYTES", 2 * 2**10)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def source(tmp_path):
    return resolve(str(tiny_models.save(tmp_path / "model", template=tiny_models.TEMPLATE)))


def contents(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != ".lock"}


def workers():
    """Return the processes that hold an encoder."""
    family = psutil.Process().children(recursive=True)
    return {process for process in family if "ray::MapWorker" in "".join(process.cmdline())}


class Stop(Exception):
    """Stands for whatever stops a process."""


def stop_after(monkeypatch, n):
    left = iter(range(n))

    def write(*arguments):
        if next(left, None) is None:
            raise Stop
        shards.write_shard(*arguments)

    monkeypatch.setattr(writer, "write_shard", write)


@pytest.mark.parametrize("first", ["local", "ray"])
def test_either_engine_goes_on_where_the_other_stopped(tmp_path, source, monkeypatch, first):
    second = {"local": "ray", "ray": "local"}[first]
    settings = {"poolings": ["last", "user_mean"], "token_budget": 40}
    whole = extract(source, QUESTIONS, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stop):
            extract(source, QUESTIONS, tmp_path / "out", engine=first, **settings)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*")}
    assert len(kept) == 2 < len(whole.shards) - 2
    settings["token_budget"] = 999  # is no matter: the plan is kept
    extract(source, QUESTIONS, tmp_path / "out", engine=second, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_what_a_lost_worker_was_reading_is_read_again(tmp_path, source, monkeypatch):
    questions = tiny_models.questions(400)
    whole = extract(source, questions, tmp_path / "whole", layers=[1, 3], token_budget=40)
    seen = []

    def write(*arguments):
        shards.write_shard(*arguments)
        seen.append(workers())
        if len(seen) == 1:
            assert len(seen[0]) == 2
            next(iter(seen[0])).kill()

    monkeypatch.setattr(writer, "write_shard", write)
    extract(
        source, questions, tmp_path / "out", layers=[1, 3], token_budget=40, engine="ray", workers=2
    )
    assert len(seen) == len(whole.shards) > 20
    assert seen[-1] - seen[0], "no worker was started in place of the lost one"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
