import errno
import threading
import time

import numpy as np
import pytest
import tiny_models

from prefill_router import extraction
from prefill_router.errors import InputError
from prefill_router.extraction import batches, extract, prefill
from prefill_router.extraction.activations import Activations
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.shards import Folder
from prefill_router.extraction.sources import resolve, weights_hash
from prefill_router.storage import MANIFEST, read_json

QUESTIONS = list(dict.fromkeys(tiny_models.questions(50)))[:40]
ADD = Folder.add


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(extraction, "SHARD_BYTES", 4 * 2**10)
    monkeypatch.setattr(batches, "CPU_TOKENS", (1, 30))


@pytest.fixture
def loads(monkeypatch):
    """Count how often a model is loaded."""
    seen = []
    monkeypatch.setattr(prefill, "load_encoder", lambda *a: seen.append(a) or load_encoder(*a))
    return seen


@pytest.fixture
def reads(monkeypatch):
    """Note the questions that a model reads, and the places."""
    seen = []
    plain = prefill.Reader.read

    def read(self, queries, shards, places, advance):
        def note(rows):
            seen.append((places, [queries[row] for row in rows]))
            advance(rows)

        return plain(self, queries, shards, places, note)

    monkeypatch.setattr(prefill.Reader, "read", read)
    return seen


def only(path):
    """Return the one folder of states in a cache."""
    (found,) = path.glob("activations-*")
    return found


def assert_same_states(one, other, atol=1e-5):
    assert (one.layers, one.poolings) == (other.layers, other.poolings)
    np.testing.assert_allclose(
        tiny_models.stacked(one), tiny_models.stacked(other), rtol=0, atol=atol
    )


@pytest.mark.parametrize("poolings", [["last", "mean"], ["user_mean"]])
def test_memory_and_disk_hold_the_same(tmp_path, source, poolings):
    settings = {"layers": "upper", "max_tokens": 6, "truncation": "left", "poolings": poolings}
    memory = extract(source, QUESTIONS, **settings)
    disk = extract(source, QUESTIONS, cache_dir=tmp_path / "out", **settings)
    pair = extract(load_encoder(source), QUESTIONS, **settings)
    assert len(list(only(tmp_path / "out").glob("shard-*"))) > 1
    assert memory.encoder == disk.encoder
    assert memory.encoder.weights == weights_hash(source)
    assert (memory.encoder.max_tokens, memory.encoder.truncation) == (6, "left")
    for other in (disk, pair):
        assert len(other) == 40
        assert_same_states(memory, other, atol=0)
        np.testing.assert_array_equal(other.n_tokens, memory.n_tokens)
        np.testing.assert_array_equal(other.full_tokens, [len(q.split()) for q in QUESTIONS])
    assert memory.n_truncated > 0
    opened = Activations.open(only(tmp_path / "out"), QUESTIONS)
    assert (opened.key, opened.encoder) == (disk.key, disk.encoder)
    with pytest.raises(InputError, match="name the encoder instead"):
        extract(load_encoder(source), QUESTIONS, cache_dir=tmp_path / "out")
    manifest = read_json(only(tmp_path / "out") / MANIFEST)
    assert manifest["encoder"]["name"] == source.name
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(manifest["files"])
    assert (manifest["last_layer"], manifest["attention_mask"]) == (3, False)


def test_what_is_there_is_read_without_a_model_and_nothing_stale_is(tmp_path, loads):
    source, store = resolve(str(tiny_models.save(tmp_path / "model"))), tmp_path / "store"
    first = extract(source, QUESTIONS, cache_dir=store)
    again = extract(source, list(QUESTIONS), cache_dir=store, token_budget=50, device="auto")
    shuffled = extract(source, QUESTIONS[::-1], cache_dir=store)
    fewer = extract(source, QUESTIONS[3:9], cache_dir=store, layers="upper", poolings=["mean"])
    assert len(loads) == 1
    assert again.key == first.key != shuffled.key
    np.testing.assert_array_equal(shuffled.states(3, "mean"), first.states(3, "mean")[::-1])
    np.testing.assert_array_equal(fewer.states(3, "mean"), first.states(3, "mean")[3:9])
    changes = [
        {"max_tokens": 29},
        {"truncation": "left"},
        {"storage_dtype": "float16"},
        {"dtype": "bfloat16"},
        {"trust_remote_code": True},
        {"template": "{{ messages[0]['content'] }} w1"},
        {"template_kwargs": {"thinking": True}},
    ]
    keys = {extract(source, QUESTIONS, cache_dir=store, **change).key for change in changes}
    tiny_models.save(tmp_path / "model", seed=1)  # the same name, other weights
    other = extract(source, QUESTIONS, cache_dir=store)
    assert len(keys | {first.key, other.key}) == len(loads) == len(changes) + 2
    assert np.abs(other.states(3, "mean") - first.states(3, "mean")).max() > 0.01
    # the same weights under another name are the same encoder
    copied = resolve(str(tiny_models.save(tmp_path / "copy", seed=1)))
    renamed = extract(copied, QUESTIONS, cache_dir=store)
    assert (renamed.key, renamed.encoder.name) == (other.key, copied.name)
    assert len(loads) == len(changes) + 2
    with pytest.raises(InputError, match="not text"):
        extract(source, [b"w1"], cache_dir=store)
    with pytest.raises(InputError, match="one text; give a list"):
        extract(source, "w1 w2")


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path, source, reads, stopped, contents):
    extract(source, QUESTIONS, cache_dir=tmp_path / "whole")
    n_whole = len(reads)
    with stopped(2):
        extract(source, QUESTIONS, cache_dir=tmp_path / "out")
    folder = only(tmp_path / "out")
    with pytest.raises(InputError, match=r"lacks states of .* extract again"):
        Activations.open(folder, QUESTIONS)
    assert len(list(folder.glob("shard-*"))) == 2
    (folder / ".shard-000002.safetensors.x.safetensors").write_bytes(b"begun")
    (left,) = Folder(folder, QUESTIONS).missing([(3, "mean")])
    reads.clear()
    extract(source, QUESTIONS, cache_dir=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert 0 < len(reads) < n_whole
    assert sum(len(batch) for _, batch in reads) == len(left[1]) < len(QUESTIONS)


def test_a_full_disk_says_so_and_keeps_what_there_is(tmp_path, source, stopped):
    full = OSError(errno.ENOSPC, "No space left on device")
    with stopped(1, full, InputError, r"No space left on device.* run again"):
        extract(source, QUESTIONS, cache_dir=tmp_path / "out")
    assert len(list(only(tmp_path / "out").glob("shard-*"))) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        extract(source, QUESTIONS, cache_dir=tmp_path / "file" / "out")


def test_damage_is_named_and_what_was_deleted_is_read_again(tmp_path, source, reads, contents):
    whole = extract(source, QUESTIONS, cache_dir=tmp_path / "out")
    path = next(only(tmp_path / "out").glob("shard-*"))
    before, content = contents(tmp_path / "out"), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name}.*delete it"):
        tiny_models.stacked(extract(source, QUESTIONS, cache_dir=tmp_path / "out"))
    path.unlink()
    reads.clear()
    again = extract(source, QUESTIONS, cache_dir=tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert sum(len(batch) for _, batch in reads) < 40
    assert_same_states(again, whole, atol=0)


def test_whoever_comes_second_waits_and_reads_nothing(tmp_path, source, reads, monkeypatch):
    started, found = threading.Event(), []

    def add(*arguments):
        started.set()
        time.sleep(0.1)
        ADD(*arguments)

    monkeypatch.setattr(Folder, "add", add)

    def run():
        found.append(extract(source, QUESTIONS, cache_dir=tmp_path))

    first = threading.Thread(target=run)
    first.start()
    assert started.wait(60)
    run()
    first.join()
    assert sum(len(batch) for _, batch in reads) == len(QUESTIONS)
    assert_same_states(*found, atol=0)


# -- what is there already -----------------------------------------------------------------------


def test_of_an_extended_data_set_only_new_queries_are_read(tmp_path, source, reads, stopped):
    extract(source, QUESTIONS[:25], cache_dir=tmp_path)
    reads.clear()
    longer = [*QUESTIONS[25:], *QUESTIONS[:25][::-1]]
    with stopped(1):
        extract(source, longer, cache_dir=tmp_path)
    found = extract(source, longer, cache_dir=tmp_path)
    assert {question for _, batch in reads for question in batch} == set(QUESTIONS[25:])
    assert_same_states(found, extract(source, longer))


def test_of_more_layers_and_poolings_only_those_missing_are_read(tmp_path, source, reads):
    extract(source, QUESTIONS, cache_dir=tmp_path, layers=[2, 3], poolings=["last"])
    reads.clear()
    found = extract(source, QUESTIONS, cache_dir=tmp_path, layers=[1, 2, 3])
    missing = [(1, "last"), (1, "mean"), (2, "mean"), (3, "mean")]
    assert all(places == missing for places, _ in reads)
    reads.clear()
    extract(source, QUESTIONS, cache_dir=tmp_path)
    assert all(places == [(0, "last"), (0, "mean")] for places, _ in reads)
    assert_same_states(found, extract(source, QUESTIONS, layers=[1, 2, 3]))


def test_queries_that_are_alike_are_read_once(tmp_path, source, reads):
    asked = ["w1 w2", "w3", "w1 w2"]
    found = extract(source, asked, cache_dir=tmp_path)
    assert sorted(question for _, batch in reads for question in batch) == ["w1 w2", "w3"]
    assert found.n_tokens.tolist() == [2, 1, 2]
    assert_same_states(found, extract(source, asked))


def test_a_state_that_is_not_finite_loses_no_other(tmp_path, source, monkeypatch):
    """Block 2 overflows for one prompt of three; all else is kept, and earlier layers are used."""

    def overflow(module, args, output):
        if len(output) == 3:
            output[1] = float("inf")

    def load(*arguments):
        model, tokenizer = load_encoder(*arguments)
        model.layers[1].register_forward_hook(overflow)
        return model, tokenizer

    monkeypatch.setattr(prefill, "load_encoder", load)
    monkeypatch.setattr(batches, "CPU_TOKENS", (99, 99))
    questions = ["w1 w2", "w7 w8", "w3 w4"]
    for cache_dir in (None, tmp_path / "out"):
        with pytest.warns(UserWarning, match=r"layer 2 \(last\): query 1; layer 3 \(last\): query"):
            found = extract(source, questions, cache_dir=cache_dir, poolings=["last"])
        assert found.layers == [0, 1]
        assert np.isfinite(found.states(1, "last")).all()
        with pytest.raises(InputError, match=r"no states of layer 2"):
            found.states(2, "last")
