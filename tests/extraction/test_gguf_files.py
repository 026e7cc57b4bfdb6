"""GGUF files are read like the same weights in safetensors, or refused."""

import shutil
import sys

import numpy as np
import pytest
import tiny_gguf
import tiny_models

from prefill_router.errors import InputError
from prefill_router.extraction import extract, gguf_files, sources
from prefill_router.extraction.models import (
    load_encoder,
    load_target,
    load_tokenizer,
    write_untrained,
)
from prefill_router.extraction.prompts import Prompts
from prefill_router.extraction.sources import n_parameters, pinned, resolve

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
QUESTIONS = ["What is 17 + 25?", "  w1 wörld\n\n2", "a"]


def states(encoder):
    return tiny_models.stacked(extract(str(encoder), QUESTIONS))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a tiny Llama, and ``same`` beside it."""
    return tiny_gguf.save(tmp_path_factory.mktemp("gguf"))


@pytest.mark.parametrize(
    ("key", "kind"),
    [(key, "F32") for key in tiny_gguf.WRITTEN]
    + [("llama", "F16"), ("llama", "Q4_0"), ("qwen2", "Q8_0")],
)
def test_states_are_those_of_the_same_weights_in_safetensors(key, kind, tmp_path, capfd):
    path = tiny_gguf.save(tmp_path, key, kind)
    capfd.readouterr()
    np.testing.assert_allclose(states(path), states(tmp_path / "same"), rtol=1e-5, atol=1e-5)
    assert "onverting" not in capfd.readouterr().err


def test_rotary_factors_that_lie_among_the_weights_are_used(tmp_path):
    """As in Llama 3.1, whose config has no place in a GGUF file."""
    plain, scale = (
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "llama3", "factor": 8.0},
    )
    scale |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
    scale |= {"original_max_position_embeddings": 16}
    theirs, ours = (
        tiny_gguf.model("llama", rope_parameters=rope).model.rotary_emb.inv_freq.numpy()
        for rope in (plain, scale)
    )
    assert not np.allclose(theirs, ours)
    factors = {gguf_files.FACTORS: theirs / ours}
    path = tiny_gguf.save(tmp_path, tensors=factors, rope_parameters=scale)
    np.testing.assert_allclose(states(path), states(tmp_path / "same"), rtol=1e-4, atol=1e-4)


def test_a_file_is_found_by_path_in_a_directory_or_on_the_hub(saved, tmp_path, monkeypatch):
    """Wherever it lies it is the same encoder, whatever lies beside it."""
    directory = tmp_path / "models"
    (directory / "part").mkdir(parents=True)
    path = shutil.copy(saved, directory / "part" / saved.name)
    fetched = []

    def fetch(*where, **what):
        fetched.append((*where, *what.values()))
        return str(directory)

    monkeypatch.setattr(sources, "snapshot_download", fetch)
    hub = resolve("owner/model@main:part/model.gguf")
    assert fetched == [("owner/model", "main", "part/model.gguf", None)]
    assert (hub.location, hub.revision) == (path, "models")
    assert pinned(hub.name, hub.revision) == "owner/model@models:part/model.gguf"
    assert pinned("owner/model", "abc") == "owner/model@abc"
    (path.parent / "tokenizer_config.json").write_text("of another model")
    names = [path, path.parent, f"{path.parent}:model.gguf"]
    found = [resolve(str(name)) for name in names]
    assert {source.location for source in found} == {path}
    assert {sources.weights_hash(source) for source in [hub, *found]} == {
        sources.weights_hash(resolve(str(saved)))
    }
    load_encoder(hub)
    shutil.copy(saved, path.parent / "other.gguf")
    with pytest.raises(InputError, match=r"no config.json .*one of several: DIRECTORY:FILE"):
        resolve(str(path.parent))
    with pytest.raises(InputError, match=r"no config.json in .*none.gguf"):
        resolve(f"{path.parent}:none.gguf")


def test_it_answers_too_and_has_a_control(saved, tmp_path):
    source = resolve(str(saved))
    model, tokenizer = load_target(source)
    same, its_own = load_target(resolve(str(saved.parent / "same")))
    texts = [*QUESTIONS, "<|endoftext|> </s>"]  # the first of which transformers would add
    assert tokenizer(texts).input_ids == its_own(texts).input_ids
    assert tokenizer.chat_template == its_own.chat_template
    assert n_parameters(source) == model.num_parameters() == same.num_parameters()
    control = resolve(str(write_untrained(source, tmp_path / "control")))
    _, drawn = load_encoder(control)
    assert drawn(QUESTIONS).input_ids == its_own(QUESTIONS).input_ids
    assert not np.allclose(states(control.location), states(saved))


@pytest.mark.parametrize("template", [None, tiny_gguf.TEMPLATE])
def test_the_first_token_stands_once_whether_template_or_tokenizer_adds_it(template, tmp_path):
    path = tiny_gguf.save(tmp_path, template=template, adds_bos=True)
    prompts = Prompts(load_tokenizer(resolve(str(path))), 99)
    assert prompts.ids(["w1"])[0].count(257) == 1
    assert prompts.shown("w1").startswith(f"{10 if template else 3} tokens, with")


@pytest.mark.parametrize(
    ("key", "added", "message"),
    [
        ("llama", {"fields": {"attention.sliding_window": 4}}, "sliding_window is 4, .* as None"),
        ("qwen2", {"fields": {"rope.scaling.type": "yarn"}}, "rope.scaling.type is yarn"),
        ("qwen2", {"fields": {"rope.dimension_count": 8}}, "dimension_count is 8, .* as 32"),
        (
            "llama",
            {"tensors": {"blk.0.extra": np.ones(9, np.float32)}},
            "weights is .* safetensors",
        ),
    ],
)
def test_what_transformers_would_read_otherwise_is_refused(key, added, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_encoder(resolve(str(tiny_gguf.save(tmp_path, key, **added))))


def test_an_architecture_that_transformers_does_not_take(tmp_path):
    path = tmp_path / "mmproj.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_tensor("v.weight", np.ones(4, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"mmproj.gguf cannot be .* clip is not .* safetensors"):
        load_encoder(resolve(str(path)))


@pytest.mark.parametrize("left", [5, 60, 2000, -1])
def test_a_truncated_file(saved, tmp_path, left):
    path = tmp_path / "cut.gguf"
    path.write_bytes(saved.read_bytes()[:left])
    with pytest.raises(InputError, match=r"cut.gguf is truncated or damaged .* bytes\) .* again"):
        resolve(str(path))


def test_what_is_no_whole_file(saved, tmp_path, monkeypatch):
    first, third = (tmp_path / f"m-0000{i}-of-00003.gguf" for i in (1, 3))
    for path in (first, third):
        shutil.copy(saved, path)
    merge = r"join the parts with `llama-gguf-split --merge m-00001-of-00003.gguf"
    with pytest.raises(
        InputError, match=rf"part 1 of 3 .* download m-00002-of-00003.gguf.*{merge}"
    ):
        resolve(str(first))
    shutil.copy(saved, tmp_path / "m-00002-of-00003.gguf")
    with pytest.raises(InputError, match=rf"part 3 of 3 of a model, .* one file: {merge}"):
        resolve(str(third))
    other = tmp_path / "pytorch_model.bin"
    other.write_bytes(b"{}")
    with pytest.raises(InputError, match=r"is not a GGUF file; other models are given by"):
        resolve(str(other))
    monkeypatch.setitem(sys.modules, "gguf", None)
    gguf_files._reader.cache_clear()
    with pytest.raises(InputError, match=r"needs the package gguf: pip install -e '.\[gguf\]'"):
        resolve(str(saved))
