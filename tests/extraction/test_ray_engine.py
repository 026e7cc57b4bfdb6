"""A cluster of this machine with two workers writes what one process does, byte for byte."""

import contextlib
import os
import socket
import sys
import time
from dataclasses import replace

import psutil
import pytest
import tiny_models
import torch

from prefill_router.errors import InputError
from prefill_router.extraction import ray_engine, reader, shards, streaming, writer
from prefill_router.extraction.keys import make_key
from prefill_router.extraction.reader import Job
from prefill_router.extraction.sources import ModelSource, resolve
from prefill_router.extraction.streaming import extract

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
    """Return the processes that hold an encoder, the one that has done most first."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            if "ray::MapWorker" in "".join(process.cmdline()):
                found[process] = process.cpu_times().user
    return sorted(found, key=found.get, reverse=True)


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
    questions, settings = tiny_models.questions(800), {"layers": [1, 3], "token_budget": 40}
    whole = extract(source, questions, tmp_path / "whole", **settings)
    n_written, before, after = 0, [], []

    def write(*arguments):
        nonlocal n_written
        shards.write_shard(*arguments)
        n_written += 1
        if n_written == 1:
            before.extend(workers())
            before[0].kill()
        if n_written == len(whole.shards):
            after.extend(workers())

    monkeypatch.setattr(writer, "write_shard", write)
    extract(source, questions, tmp_path / "out", engine="ray", workers=2, **settings)
    assert n_written == len(whole.shards) > 50
    assert before[0] not in after
    assert set(after) - set(before), "nothing had to be read again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class Deadly(reader.Worker):
    """Ends its process, as too little memory does, over any shard with a certain question."""

    def read(self, questions, sizes):
        if "w0 w0 w0" in questions:
            os._exit(1)
        return super().read(questions, sizes)


def test_a_shard_that_kills_every_worker_is_given_up_and_named(tmp_path, source, monkeypatch):
    monkeypatch.setattr(ray_engine, "Worker", Deadly)
    monkeypatch.setattr(ray_engine, "TRIES", 2)
    questions = [f"w{i} w{i} w{i}" for i in range(8)]
    settings = {"layers": [3], "token_budget": 6}
    monkeypatch.setattr(streaming, "SHARD_BYTES", 1)
    with pytest.raises(InputError, match=r"2 times each: shard 0 \(queries 0; up to 5 tok") as said:
        extract(source, questions, tmp_path / "out", engine="ray", workers=1, **settings)
    assert "shard 1" not in str(said.value)
    assert len(list((tmp_path / "out").glob("shard-*"))) == 7  # all others are there
    extract(source, questions, tmp_path / "out", **settings)  # and one process can read it
    extract(source, questions, tmp_path / "whole", **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_where_all_workers_die_not_every_shard_is_tried(tmp_path, source, monkeypatch):
    monkeypatch.setattr(ray_engine, "Worker", Deadly)
    monkeypatch.setattr(ray_engine, "TRIES", 1)
    monkeypatch.setattr(streaming, "SHARD_BYTES", 1)
    settings = {"layers": [3], "token_budget": 6, "engine": "ray", "workers": 1}
    with pytest.raises(InputError, match=r"shard 0 .*; shard 1 .*too little memory") as said:
        extract(source, ["w0 w0 w0"] * 6, tmp_path / "out", **settings)
    assert "shard 5" not in str(said.value)


def end(*_):
    os._exit(1)


def test_a_worker_that_is_lost_before_there_is_a_plan(tmp_path, source, monkeypatch):
    monkeypatch.setattr(ray_engine, "settle", end)
    with pytest.raises(InputError, match="loads the encoder and counts tokens was lost"):
        extract(source, QUESTIONS, tmp_path / "out", engine="ray")


def test_a_cluster_that_nobody_answers_for_is_given_up_soon(tmp_path, source, monkeypatch, cluster):
    monkeypatch.setattr(cluster, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]
    for address in (f"127.0.0.1:{closed}", f"ray://127.0.0.1:{closed}", "host:port"):
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"The Ray cluster at {address} cannot be reached"):
            extract(source, QUESTIONS, tmp_path / "out", engine="ray", address=address)
        assert time.monotonic() - begun < 10


def test_what_a_worker_finds_wrong_is_said_in_plain_words(tmp_path, source):
    """At once, where it concerns all; or when the prompt is read that it concerns."""
    settings = {"engine": "ray", "workers": 1}
    with pytest.raises(InputError, match=r"^layers \[9\] must be one or more of 0\.\.3: [^\n]*$"):
        extract(source, QUESTIONS, tmp_path / "layers", layers=[9], **settings)
    settings |= {"poolings": ["user_mean"], "max_tokens": 1, "truncation": "left"}
    with pytest.raises(InputError, match=r"^Of question 'w\d+[^\n]*' no token of its own[^\n]*$"):
        extract(source, QUESTIONS, tmp_path / "user", **settings)


def test_a_worker_that_would_write_other_states_refuses(tmp_path, source):
    key = make_key(source, QUESTIONS)
    job = Job(source, key, ("cpu", "float32", False), {})
    assert job.found_here() == job
    with pytest.raises(InputError, match=r"has other code, transformers than the driver"):
        replace(job, key=key | {"code": "older", "transformers": "5.0.0"}).found_here()
    tiny_models.save(source.location, seed=1)
    with pytest.raises(InputError, match=f"has other weights .* at {source.location}"):
        job.found_here()


def test_an_encoder_that_lies_elsewhere_on_a_worker_is_found_there(monkeypatch, tmp_path, source):
    """The zoo lies in the package, and what is of the hub in a cache: of that very commit."""
    job = Job(source, make_key(source, QUESTIONS), ("cpu", "float32", False), {})
    nowhere = tmp_path / "nowhere"
    asked = []
    monkeypatch.setattr(reader, "resolve", lambda name: asked.append(name) or source)
    for away in (
        ModelSource("zoo/reader-s", nowhere),
        ModelSource("owner/model", nowhere, "abc", True),
        ModelSource("owner/model@main", nowhere, "abc", True),
    ):
        assert replace(job, source=away).found_here() == job
    assert asked == ["zoo/reader-s", "owner/model@abc", "owner/model@abc"]


def test_what_is_asked_of_an_engine_is_checked_first(tmp_path, source, monkeypatch):
    for wrong, said in (
        ({"engine": "rya"}, "Did you mean 'ray'"),
        ({"workers": 2}, "are for the engine ray"),
        ({"address": "auto"}, "are for the engine ray"),
        ({"engine": "ray", "workers": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            extract(source, QUESTIONS, tmp_path / "out", **wrong)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[ray\]'"):
        extract(source, QUESTIONS, tmp_path / "out", engine="ray")


def test_a_cluster_without_a_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(ray_engine, "machines", lambda: [{"GPU": 1}, {}])
    with pytest.raises(InputError, match="no machine with a CPU"):
        ray_engine.needs("cpu", 4)


@pytest.mark.parametrize(
    ("device", "threads", "wanted", "fit"),
    [
        ("cpu", 4, (4, 0), 2 + 2 + 4),
        ("cpu", 99, (16, 0), 1),  # the plan of a larger machine
        ("cuda", 4, (1, 1), 8),
        ("auto", 4, (1, 1), 8),
        ("spread", 4, (1, 4), 2),
        ({"layers": 0}, 4, (1, 4), 2),
    ],
)
def test_a_worker_has_what_it_needs_to_itself(monkeypatch, device, threads, wanted, fit):
    machines = [{"CPU": 8, "GPU": 4}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 16}, {}]
    monkeypatch.setattr(ray_engine, "machines", lambda: machines)
    needs = ray_engine.needs(device, threads)
    assert needs == dict(zip(("num_cpus", "num_gpus"), wanted, strict=True))
    assert ray_engine.room(needs) == fit
    monkeypatch.setattr(ray_engine, "machines", lambda: machines[2:])
    assert ray_engine.needs(device, 1) == {"num_cpus": 1, "num_gpus": 0}
