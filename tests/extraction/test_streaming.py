import errno
import multiprocessing
import shutil
import time
from importlib.metadata import version

import numpy as np
import pytest
import tiny_models
import torch

from prefill_router import extraction
from prefill_router.errors import InputError
from prefill_router.extraction import encode, keys, reader, shards, streaming, writer
from prefill_router.extraction.activations import StoredStates
from prefill_router.extraction.layout import PLAN
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import resolve
from prefill_router.extraction.streaming import extract, extract_to_store
from prefill_router.storage import MANIFEST, Store, read_json, verify

QUESTIONS = tiny_models.questions(40)


@pytest.fixture
def source(tmp_path):
    return resolve(str(tiny_models.save(tmp_path / "model")))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(streaming, "SHARD_BYTES", 4 * 2**10)
    monkeypatch.setattr(extraction, "CPU_TOKENS", (1, 30))


@pytest.fixture
def loads(monkeypatch):
    """Count how often a model is loaded."""
    seen = []

    def load(*arguments):
        seen.append(arguments)
        return load_encoder(*arguments)

    monkeypatch.setattr(reader, "load_encoder", load)
    return seen


@pytest.fixture
def reads(monkeypatch):
    """Note the questions that a model reads."""
    seen = []
    plain = reader.read_batches

    def read(prefill, prompts, questions, batches):
        for rows, pooled in plain(prefill, prompts, questions, batches):
            seen.append((prefill.layers, [questions[row] for row in rows]))
            yield rows, pooled

    monkeypatch.setattr(reader, "read_batches", read)
    return seen


def contents(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != ".lock"}


def assert_holds(activations, encoding, atol=0):
    assert (activations.layers, activations.poolings) == (encoding.layers, encoding.poolings)
    for i, layer in enumerate(encoding.layers):
        for j, pooling in enumerate(encoding.poolings):
            got = activations.states(layer, pooling)
            np.testing.assert_allclose(got, encoding.states[i, j], rtol=0, atol=atol)


@pytest.mark.parametrize("poolings", [["last", "mean"], ["user_mean"]])
def test_what_is_written_is_what_encode_returns(tmp_path, source, poolings):
    settings = {"layers": "upper", "max_tokens": 6, "truncation": "left"}
    settings["poolings"] = poolings
    activations = extract(source, QUESTIONS, tmp_path / "out", **settings)
    encoding = encode(*load_encoder(source), QUESTIONS, **settings)
    assert len(activations.shards) > 1
    assert activations.n_truncated == encoding.n_truncated > 0
    np.testing.assert_array_equal(activations.n_tokens, encoding.n_tokens)
    np.testing.assert_array_equal(activations.full_tokens, [len(q.split()) for q in QUESTIONS])
    assert_holds(activations, encoding)


def test_the_manifest_says_what_the_states_are_of(tmp_path, source):
    extract(source, QUESTIONS, tmp_path / "out", device="cpu", token_budget=64)
    manifest = verify(tmp_path / "out")  # every hash
    assert set(manifest["files"]) == {p.name for p in (tmp_path / "out").glob("*.safetensors")}
    assert manifest["encoder"]["name"] == source.name
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(
        manifest["encoder"]["files"]
    )
    assert manifest["libraries"]["torch"] == version("torch")
    assert manifest["threads"] == torch.get_num_threads()
    assert manifest["token_budget"] == 64
    assert manifest["attention_mask"] is False
    assert manifest["last_layer"] == 3
    assert manifest["key"]["dtype"] == "float32"


def test_the_store_reads_what_it_has_and_nothing_stale(tmp_path, loads):
    source = resolve(str(tiny_models.save(tmp_path / "model")))
    store = Store(tmp_path / "store")
    first = extract_to_store(store, source, QUESTIONS)
    again = extract_to_store(store, source, list(QUESTIONS), token_budget=50, device="auto")
    assert again.path == first.path
    assert len(loads) == 1
    changes = [
        {"layers": "upper"},
        {"poolings": ["mean"]},
        {"max_tokens": 29},
        {"truncation": "left"},
        {"storage_dtype": "float16"},
        {"dtype": "bfloat16"},
        {"trust_remote_code": True},
        {"template": "{{ messages[0]['content'] }} w1"},
        {"template_kwargs": {"thinking": True}},
    ]
    paths = {extract_to_store(store, source, QUESTIONS, **change).path for change in changes}
    paths.add(extract_to_store(store, source, QUESTIONS[::-1]).path)
    with pytest.raises(InputError, match="not text"):
        extract_to_store(store, source, [b"w1"])
    tiny_models.save(tmp_path / "model", seed=1)  # the same name, other weights
    other = extract_to_store(store, source, QUESTIONS)
    assert len(paths | {first.path, other.path}) == len(loads) == len(changes) + 3
    assert np.abs(other.states(3, "mean") - first.states(3, "mean")).max() > 0.01
    # the same weights under another name are the same encoder
    copied = resolve(str(tiny_models.save(tmp_path / "copy", seed=1)))
    assert extract_to_store(store, copied, QUESTIONS).path == other.path


class Stop(Exception):
    """Stands for whatever stops a process."""


@pytest.fixture
def stop_after(monkeypatch):
    """Return a function that has extractions stop after some shards; by default none does."""

    def arm(n=1000, error=Stop):
        left = [n]

        def write(*arguments):
            if not left[0]:
                raise error
            left[0] -= 1
            shards.write_shard(*arguments)

        monkeypatch.setattr(writer, "write_shard", write)

    return arm


def test_a_stopped_extraction_goes_on_and_gives_the_same_bytes(tmp_path, source, reads, stop_after):
    undisturbed = extract(source, QUESTIONS, tmp_path / "whole")
    reads.clear()
    stop_after(2)
    with pytest.raises(Stop):
        extract(source, QUESTIONS, tmp_path / "out")
    with pytest.raises(InputError, match="not finished"):
        StoredStates.open(tmp_path / "out")
    kept = sorted((tmp_path / "out").glob("shard-*"))
    (tmp_path / "out" / ".shard-000002.safetensors.x.safetensors").write_bytes(b"begun")
    stop_after()
    n_read, threads = len(reads), torch.get_num_threads()
    # another budget and number of threads are no matter: the plan is kept
    torch.set_num_threads(threads + 1)
    extract(source, QUESTIONS, tmp_path / "out", token_budget=9999)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert len(kept) == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    plan = undisturbed.layout.plan  # and no batch of a shard that was kept is read again
    assert len(reads) - n_read == len(plan.batch_ends) - plan.shard_ends[1]


def test_a_full_disk_says_so_and_keeps_what_there_is(tmp_path, source, stop_after):
    whole = extract(source, QUESTIONS, tmp_path / "whole")
    stop_after(1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(InputError, match=r"No space left on device.* run again"):
        extract(source, QUESTIONS, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("shard-*"))) == 1
    stop_after()
    assert_same(extract(source, QUESTIONS, tmp_path / "out"), whole)


def assert_same(one, other):
    assert contents(one.path) == contents(other.path)


def test_a_directory_that_cannot_be_written(tmp_path, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        extract(source, QUESTIONS, tmp_path / "file" / "out")


@pytest.mark.parametrize("name", [PLAN, "shard-000000.safetensors"])
@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_a_damaged_file_of_a_stopped_extraction_is_named(
    tmp_path, source, stop_after, name, damage
):
    stop_after(2)
    with pytest.raises(Stop):
        extract(source, QUESTIONS, tmp_path / "out")
    path = tmp_path / "out" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:-7])
    named = name if damage == "short" else "shard-000000"  # shards are of another plan then
    with pytest.raises(InputError, match=rf"{named}.*delete"):
        extract(source, QUESTIONS, tmp_path / "out")


def test_a_directory_of_other_activations_is_left_alone(tmp_path, source, monkeypatch):
    extract(source, QUESTIONS, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"other layers, questions\)"):
        extract(source, QUESTIONS[1:], tmp_path / "out", layers=[1])
    monkeypatch.setattr(keys, "versions", lambda *_: "another version")
    with pytest.raises(InputError, match=r"other code\)"):
        extract(source, QUESTIONS, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def slowly(source, directory, started):
    def write(*arguments):
        started.set()
        time.sleep(0.1)
        shards.write_shard(*arguments)

    writer.write_shard = write
    extract(source, QUESTIONS, directory)


def test_a_second_process_waits_for_the_first(tmp_path, source, reads, capsys):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    first = context.Process(target=slowly, args=(source, tmp_path / "out", started))
    first.start()
    assert started.wait(60)
    assert not (tmp_path / "out" / MANIFEST).exists()
    second = extract(source, QUESTIONS, tmp_path / "out")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tmp_path / 'out'} is being written by process {first.pid} on " in said
    first.join()
    assert first.exitcode == 0
    assert reads == []
    assert_holds(second, encode(*load_encoder(source), QUESTIONS), atol=1e-5)


def test_a_finished_extraction_needs_no_model(tmp_path, source, loads):
    extract(source, QUESTIONS, tmp_path / "out")
    extract(source, QUESTIONS, tmp_path / "out")
    assert len(loads) == 1


# -- taking over what is there -------------------------------------------------------------------


def test_of_an_extended_data_set_only_new_queries_are_read(tmp_path, source, reads):
    store, old = Store(tmp_path / "store"), QUESTIONS[:25]
    extract_to_store(store, source, old)
    reads.clear()
    longer = [*QUESTIONS[25:], *old[::-1]]
    activations = extract_to_store(store, source, longer)
    assert {tuple(layers) for layers, _ in reads} == {(0, 1, 2, 3)}
    assert sorted(q for _, batch in reads for q in batch) == sorted(set(QUESTIONS[25:]) - set(old))
    assert_holds(activations, encode(*load_encoder(source), longer), atol=1e-5)
    assert read_json(activations.path / MANIFEST)["taken_over"]["owner"]
    reads.clear()
    shorter = extract_to_store(store, source, old[3:9], layers=[2], poolings=["mean"])
    assert reads == []
    assert_holds(
        shorter, encode(*load_encoder(source), old[3:9], layers=[2], poolings=["mean"]), atol=1e-5
    )


def test_of_more_layers_only_those_missing_are_read(tmp_path, source, reads):
    store = Store(tmp_path / "store")
    extract_to_store(store, source, QUESTIONS, layers=[2, 3])
    reads.clear()
    activations = extract_to_store(store, source, QUESTIONS)
    assert {tuple(layers) for layers, _ in reads} == {(0, 1)}  # and block 2 is not run
    assert_holds(activations, encode(*load_encoder(source), QUESTIONS), atol=1e-5)


def test_more_poolings_are_read_anew(tmp_path, source, reads):
    """They need the whole pass, of which nothing can be left out."""
    store = Store(tmp_path / "store")
    extract_to_store(store, source, QUESTIONS, poolings=["last"])
    reads.clear()
    activations = extract_to_store(store, source, QUESTIONS)
    assert {tuple(layers) for layers, _ in reads} == {(0, 1, 2, 3)}
    assert_holds(activations, encode(*load_encoder(source), QUESTIONS), atol=1e-5)


@pytest.mark.parametrize("gone", [False, True])
def test_taking_over_resumes_too(tmp_path, source, reads, stop_after, gone):
    """And if what was to be taken over is gone, it is read."""
    store = Store(tmp_path / "store")
    earlier = extract_to_store(store, source, QUESTIONS[:25])
    whole = extract(source, QUESTIONS, tmp_path / "whole", reuse=[earlier.path])
    n_new = whole.layout.description["n_new_shards"]
    stop_after(n_new + 1)
    with pytest.raises(Stop):
        extract_to_store(store, source, QUESTIONS)
    stop_after()
    if gone:
        shutil.rmtree(earlier.path)
    reads.clear()
    activations = extract_to_store(store, source, QUESTIONS)
    assert bool(reads) == gone
    assert_holds(activations, encode(*load_encoder(source), QUESTIONS), atol=1e-5)
    if not gone:
        assert_same(activations, whole)


def test_damage_in_what_would_be_taken_over_is_never_copied(tmp_path, source):
    store = Store(tmp_path / "store")
    path = next(extract_to_store(store, source, QUESTIONS[:25]).path.glob("shard-*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name}.*delete {path.parent}"):
        extract_to_store(store, source, QUESTIONS)


# -- states that are not finite ------------------------------------------------------------------


def test_a_state_that_is_not_finite_loses_no_other(tmp_path, source, monkeypatch):
    """Block 2 overflows for one prompt of three; all else is kept, and earlier layers are used."""

    def overflow(module, args, output):
        if len(output) == 3:
            output[1] = float("inf")

    def load(*arguments):
        model, tokenizer = load_encoder(*arguments)
        model.layers[1].register_forward_hook(overflow)
        return model, tokenizer

    monkeypatch.setattr(reader, "load_encoder", load)
    with pytest.warns(UserWarning, match=r"last\.002: query 1; last\.003: query 1\)"):
        found = extract(source, ["w1 w2", "w7 w8", "w3 w4"], tmp_path / "out", poolings=["last"])
    assert found.layers == [0, 1]
    assert np.isfinite(found.states(1, "last")).all()
    with pytest.raises(InputError, match=r"last\.002: query 1"):
        found.states(2, "last")
