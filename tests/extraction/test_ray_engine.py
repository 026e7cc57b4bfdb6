"""A cluster of this machine with two workers writes what one process does, byte for byte."""

import contextlib
import os
import socket
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import tiny_models
import torch

from prefill_router import extraction
from prefill_router.errors import InputError
from prefill_router.extraction import extract, ray_engine
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.extraction.prefill import EncoderSpec
from prefill_router.extraction.shards import Folder
from prefill_router.extraction.sources import ModelSource, weights_hash
from prefill_router.storage import versions

QUESTIONS = list(dict.fromkeys(tiny_models.questions(60)))
RAY = {"engine": "ray", "workers": 1}
ADD = Folder.add


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.fixture(autouse=True)
def one_thread_and_small_shards(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(extraction, "SHARD_BYTES", 2 * 2**10)
    yield
    torch.set_num_threads(threads)


def workers():
    """Return the processes that hold an encoder, the one that has done most first."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            if "ray::Worker" in "".join(process.cmdline()):
                found[process] = process.cpu_times().user
    return sorted(found, key=found.get, reverse=True)


def test_either_engine_goes_on_where_the_other_stopped(tmp_path, source, stopped, contents, shards):
    """With one worker, in the order of one process; with more, states differ by rounding."""
    settings = {"poolings": ["last", "user_mean"], "token_budget": 40}
    extract(source, QUESTIONS, cache_dir=tmp_path / "whole", **settings)
    for engine in ({"engine": "local"}, RAY):
        before = {path: path.stat().st_mtime_ns for path in shards(tmp_path / "out")}
        with stopped(2):
            extract(source, QUESTIONS, cache_dir=tmp_path / "out", **engine, **settings)
        assert len(shards(tmp_path / "out")) == len(before) + 2
        assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(shards(tmp_path / "whole")) > 6
    extract(source, QUESTIONS, cache_dir=tmp_path / "out", **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    kept, wanted = (extract(source, QUESTIONS, **engine, **settings) for engine in (RAY, {}))
    assert (kept.key, kept.encoder) == (wanted.key, wanted.encoder)
    np.testing.assert_array_equal(tiny_models.stacked(kept), tiny_models.stacked(wanted))


def test_what_a_lost_worker_was_reading_is_read_again(
    tmp_path, source, monkeypatch, contents, shards
):
    questions = list(dict.fromkeys(tiny_models.questions(300)))
    settings = {"layers": [1, 3], "token_budget": 40}
    extract(source, questions, cache_dir=tmp_path / "whole", **settings)
    n_whole, n_written, before, after = len(shards(tmp_path / "whole")), 0, [], []

    def add(*arguments):
        nonlocal n_written
        ADD(*arguments)
        n_written += 1
        if n_written == 1:
            before.extend(workers())
            before[0].kill()
        if n_written == n_whole:
            after.extend(workers())

    monkeypatch.setattr(Folder, "add", add)
    extract(source, questions, cache_dir=tmp_path / "out", engine="ray", workers=2, **settings)
    assert n_written == n_whole > 20
    assert before[0] not in after
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class Deadly(ray_engine.Worker):
    """Ends its process, as too little memory does, over a certain question."""

    def survey(self, queries):
        return os._exit(1) if "w0" in queries else super().survey(queries)

    def read(self, queries, *arguments):
        if any(query.startswith("w0 w0 w0") for query in queries.values()):
            os._exit(1)
        return super().read(queries, *arguments)


def test_what_kills_every_worker_is_given_up_and_named(
    tmp_path, source, monkeypatch, contents, shards
):
    """Where it is all of them, soon."""
    monkeypatch.setattr(ray_engine, "Worker", Deadly)
    monkeypatch.setattr(ray_engine, "TRIES", 2)
    monkeypatch.setattr(extraction, "SHARD_BYTES", 1)
    settings = {"layers": [3], "token_budget": 4}
    questions = [f"w{i} w{i} w{i}" for i in range(8)]
    with pytest.raises(InputError, match=r"2 times each. Not read: queries 0; up to 3 tok"):
        extract(source, questions, cache_dir=tmp_path / "out", **RAY, **settings)
    assert len(shards(tmp_path / "out")) == 7  # all others are there
    for name in ("out", "whole"):  # and one process can read it
        extract(source, questions, cache_dir=tmp_path / name, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    monkeypatch.setattr(ray_engine, "TRIES", 1)
    deadly = [f"w0 w0 w0 w{i}" for i in range(6)]
    with pytest.raises(InputError, match=r"over 2 shards, .* and 1 more; .*too little memory"):
        extract(source, deadly, cache_dir=tmp_path / "out", **RAY, **settings)
    with pytest.raises(InputError, match="loads the encoder and counts tokens was lost"):
        extract(source, ["w0"], **RAY)


def test_a_cluster_that_nobody_answers_for_is_given_up_soon(source, monkeypatch, cluster):
    monkeypatch.setattr(cluster, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]
    for address in (f"127.0.0.1:{closed}", f"ray://127.0.0.1:{closed}", "host:port"):
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"The Ray cluster at {address} cannot be reached"):
            extract(source, QUESTIONS, engine="ray", address=address)
        assert time.monotonic() - begun < 10


def test_what_a_worker_finds_wrong_is_said_in_plain_words(source):
    settings = {"max_tokens": 1, "truncation": "left", "template": tiny_models.TEMPLATE}
    with pytest.raises(InputError, match=r"^The chat template writes 1 tokens after [^\n]*$"):
        extract(source, QUESTIONS, **RAY, **settings)


def spec_of(source, **others):
    info = EncoderInfo(source.name, None, weights_hash(source))
    return EncoderSpec(source, info, versions=versions("extraction") | others)


def test_a_worker_takes_the_encoder_that_lies_there_if_it_is_the_same(
    monkeypatch, tmp_path, source
):
    """The zoo lies in the package, and what is of the hub in a cache: of that very commit."""
    spec, nowhere, asked = spec_of(source), tmp_path / "nowhere", []
    monkeypatch.setattr(ray_engine, "resolve", lambda name: asked.append(name) or source)
    for there in (
        source,
        ModelSource("zoo/reader-s", nowhere),
        ModelSource("owner/model", nowhere, "abc"),
        ModelSource("owner/model@main", nowhere, "abc"),
    ):
        assert ray_engine.found_here(replace(spec, source=there)) == spec
    assert asked == ["zoo/reader-s", "owner/model@abc", "owner/model@abc"]
    with pytest.raises(InputError, match=r"has other extraction, transformers than the driver"):
        ray_engine.found_here(spec_of(source, extraction=0, transformers="5.0.0"))
    tiny_models.save(source.location, seed=1)
    with pytest.raises(InputError, match=f"has other weights .* at {source.location}"):
        ray_engine.found_here(spec)


def test_what_is_asked_of_an_engine_is_checked_first(source, monkeypatch):
    for wrong, said in (
        ({"engine": "rya"}, "Did you mean 'ray'"),
        ({"workers": 2}, "are for the engine ray"),
        ({"address": "auto"}, "are for the engine ray"),
        ({"engine": "ray", "workers": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            extract(source, QUESTIONS, **wrong)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[ray\]'"):
        extract(source, QUESTIONS, engine="ray")


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
    def share(machines, threads):
        nodes = [{"Alive": True, "Resources": machine} for machine in machines]
        monkeypatch.setattr("ray.nodes", lambda: nodes)
        return ray_engine.share(device, threads)

    machines = [{"CPU": 8, "GPU": 4}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 16}, {}]
    resources = dict(zip(("num_cpus", "num_gpus"), wanted, strict=True))
    assert share(machines, threads) == (resources, fit)
    assert share(machines[2:], 1) == ({"num_cpus": 1, "num_gpus": 0}, 16)
    # a worker needs both on one machine: GPUs where there is no CPU, nobody can use
    assert share([{"GPU": 8}, {"CPU": 2}], 1) == ({"num_cpus": 1, "num_gpus": 0}, 2)
    for nothing in ([{"GPU": 1}, {}], [{"CPU": 0.5}], []):
        with pytest.raises(InputError, match="no machine with a CPU"):
            share(nothing, threads)
