import json
import shutil
import subprocess
import sys

import pytest
import tiny_models
import torch
from architectures import VISION
from transformers import AutoModel, ViTConfig, Wav2Vec2Config, WhisperConfig

from prefill_router.errors import InputError
from prefill_router.extraction import models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny_models.save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_zoo_name_comes_before_a_directory_of_that_name(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "inside" / "reader")
    shutil.copytree(saved, tmp_path / "zoo" / "reader")
    monkeypatch.setattr(models, "ZOO", tmp_path / "inside")
    monkeypatch.chdir(tmp_path)
    assert models.resolve("zoo/reader").location == tmp_path / "inside" / "reader"
    assert models.resolve("./zoo/reader").location == tmp_path / "zoo" / "reader"
    with pytest.raises(InputError, match="Did you mean 'zoo/reader'"):
        models.resolve("zoo/raeder")
    with pytest.raises(InputError, match="zoo"):
        models.resolve("zoo/../zoo/reader")


def test_a_directory_is_not_of_the_hub(saved):
    source = models.resolve(str(saved))
    assert source == models.ModelSource(str(saved), saved.resolve(), None, False)


OFFLINE = """
from prefill_router.errors import InputError
from prefill_router.extraction.models import resolve
for name in ("owner/no-such-model", "not a hub id", "gpt-none"):
    try:
        resolve(name)
    except InputError as error:
        print(error)
"""


def test_offline_an_unknown_name_shows_how_to_give_a_directory(tmp_path):
    """In a process of its own, for the hub reads its environment when it is imported."""
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": ":".join(sys.path),
    }
    run = [sys.executable, "-c", OFFLINE]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    messages = done.stdout.splitlines()
    assert len(messages) == 3
    for message in messages:
        assert "offline" in message
        assert "-p encoder=path/to/directory (papermill: a space" in message


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "a/b/c"])
def test_a_missing_path_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(models, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="no such directory"):
        models.resolve(name)


def test_a_home_of_nobody_and_a_giant_name_are_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="~nosuchuser/x: no such directory"):
        models.resolve("~nosuchuser/x")
    with pytest.raises(InputError, match="neither a directory nor in the zoo"):
        models.resolve("a" * 1000)


def test_a_hub_name_gives_the_snapshot_and_its_commit(saved, monkeypatch):
    asked = []
    monkeypatch.setattr(
        models, "snapshot_download", lambda name, **kw: asked.append((name, kw)) or str(saved)
    )
    source = models.resolve("owner/model@abc")
    assert (source.location, source.revision, source.is_hub) == (saved, saved.name, True)
    assert asked[0][0] == "owner/model"
    assert asked[0][1]["revision"] == "abc"
    assert not any("bin" in pattern or "pt" in pattern for pattern in asked[0][1]["allow_patterns"])


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="save_pretrained"):
        models.resolve(str(copy))


@pytest.mark.parametrize(
    ("file", "message"), [("config.json", "no config.json"), ("tokenizer.json", "no tokenizer")]
)
def test_an_incomplete_directory_is_refused(copy, file, message):
    (copy / file).unlink()
    with pytest.raises(InputError, match=message):
        models.resolve(str(copy))


def test_code_of_its_own_is_not_run(copy):
    code = "raise SystemExit('ran')"
    (copy / "modeling.py").write_text(code)
    edit(copy / "config.json", model_type="mine", auto_map={"AutoModel": "modeling.Mine"})
    with pytest.raises(InputError, match="auto_map"):
        models.load_encoder(models.resolve(str(copy)))


def test_a_known_architecture_is_loaded_without_the_code_beside_it(copy):
    (copy / "modeling.py").write_text("raise SystemExit('ran')")
    edit(copy / "config.json", auto_map={"AutoModel": "modeling.Mine"})
    model, _ = models.load_encoder(models.resolve(str(copy)))
    assert type(model).__name__ == "Qwen3Model"


def test_an_unknown_architecture_and_damaged_weights_are_input_errors(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load_target(models.resolve(str(copy)))
    edit(copy / "config.json", model_type="no-such-type")
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load_target(models.resolve(str(copy)))


def test_weights_that_are_not_in_the_file_are_not_made_up(tmp_path):
    """A headless checkpoint has no head to answer with: transformers would draw a random one."""
    tiny_models.save(tmp_path, auto=AutoModel)
    source = models.resolve(str(tmp_path))
    models.load_encoder(source)
    with pytest.raises(InputError, match="lm_head"):
        models.load_target(source)


def test_loaded_weights_are_the_saved_ones_in_the_type_asked_for(saved, capfd):
    source = models.resolve(str(saved))
    model, tokenizer = models.load_encoder(source)
    expected = tiny_models.model("qwen3", models.AutoModelForCausalLM).model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert tokenizer("w3").input_ids == [len(tiny_models.SPECIAL) + 3]
    assert models.load_target(source, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert capfd.readouterr().err == ""
    with pytest.raises(InputError, match="float32"):
        models.load_encoder(source, dtype="flaot32")


def test_of_an_encoder_decoder_the_encoder_is_taken(tmp_path):
    tiny_models.save(tmp_path, "t5", AutoModel)
    model, _ = models.load_encoder(models.resolve(str(tmp_path)))
    assert type(model).__name__ == "T5Stack"
    assert not model.is_decoder


@pytest.mark.parametrize(
    ("key", "tower"),
    [("llava", "LlamaModel"), ("gemma3", "Gemma3TextModel"), ("clip", "CLIPTextModel")],
)
def test_of_a_model_that_also_sees_the_text_tower_is_taken(key, tower, tmp_path):
    tiny_models.save(tmp_path, key, AutoModel)
    model, _ = models.load_encoder(models.resolve(str(tmp_path)))
    assert type(model).__name__ == tower
    assert model.config.max_position_embeddings == 32  # the limit on prompts is the tower's


NO_TEXT = [
    (ViTConfig(**VISION), "pixel_values"),
    (
        Wav2Vec2Config(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            conv_dim=[16], conv_kernel=[2], conv_stride=[2],
        ),
        "input_values",
    ),
    (
        WhisperConfig(
            d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
            decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=25,
            pad_token_id=0,
        ),
        "input_features",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "reads"), NO_TEXT, ids=["vit", "wav2vec2", "whisper"])
def test_a_model_that_reads_no_text_is_refused(config, reads, tmp_path):
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="reads no text"):
        models.resolve(str(tmp_path))
    tiny_models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"reads {reads}, not text"):
        models.load_encoder(models.resolve(str(tmp_path)))


def test_the_hash_covers_all_that_is_loaded_and_nothing_else(copy):
    source = models.resolve(str(copy))
    seen = [models.weights_hash(source)]
    (copy / "README.md").write_text("a model card")
    assert models.weights_hash(source) == seen[0]
    (copy / "chat_template.jinja").write_text(tiny_models.TEMPLATE)
    seen.append(models.weights_hash(source))
    (copy / "modeling_own.py").write_text("1")
    seen.append(models.weights_hash(source))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        edit(copy / name, note="changed")
        seen.append(models.weights_hash(source))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    seen.append(models.weights_hash(source))
    assert len(set(seen)) == 7


def test_any_tokenizer_has_something_to_pad_with():
    assert models.pad_id(tiny_models.tokenizer()) == 0
    assert models.pad_id(tiny_models.tokenizer(pad=False)) == 1
