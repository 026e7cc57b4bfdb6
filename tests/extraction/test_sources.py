import shutil

import pytest
import tiny_models
from safetensors.numpy import load_file, save_file

from prefill_router.errors import InputError
from prefill_router.extraction import sources
from prefill_router.extraction.models import load_target
from prefill_router.storage import write_json


def test_a_zoo_name_comes_before_a_directory_of_that_name(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "inside" / "reader")
    shutil.copytree(saved, tmp_path / "zoo" / "reader")
    monkeypatch.setattr(sources, "ZOO", tmp_path / "inside")
    monkeypatch.chdir(tmp_path)
    assert sources.resolve("zoo/reader").location == tmp_path / "inside" / "reader"
    assert sources.resolve("./zoo/reader").location == tmp_path / "zoo" / "reader"
    with pytest.raises(InputError, match="Did you mean 'zoo/reader'"):
        sources.resolve("zoo/raeder")
    with pytest.raises(InputError, match="zoo"):
        sources.resolve("zoo/../zoo/reader")


def test_offline_an_unknown_name_shows_how_to_give_a_directory(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("owner/no-such-model", "not a hub id", "gpt-none", "a" * 1000):
        with pytest.raises(InputError, match=r"neither .* offline\? .* -p encoder=path/to"):
            sources.resolve(name)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~nosuchuser/x", "a/b/c"])
def test_a_missing_path_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="no such file or directory"):
        sources.resolve(name)


def test_a_hub_name_gives_the_snapshot_and_its_commit(saved, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sources, "snapshot_download", lambda name, **kw: asked.append((name, kw)) or str(saved)
    )
    assert sources.resolve(str(saved)).revision is None
    source = sources.resolve("owner/model@abc")
    assert (source.location, source.revision) == (saved, saved.name)
    ((name, how),) = asked
    assert (name, how["revision"]) == ("owner/model", "abc")
    assert not any("bin" in pattern or "pt" in pattern for pattern in how["allow_patterns"])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "save_pretrained"),
    ],
)
def test_an_incomplete_directory_is_refused(copy, file, message):
    (copy / file).rename(copy / "pytorch_model.bin")  # pickled weights do not do
    with pytest.raises(InputError, match=message):
        sources.resolve(str(copy))


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "a.gguf"]
)
def test_a_git_lfs_pointer_is_named_for_what_it_is(copy, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 9\n"
    (copy / name).write_text(pointer)
    where = copy / name if name == "a.gguf" else copy
    with pytest.raises(InputError, match=rf"{name} is a Git LFS pointer.*`git lfs pull`"):
        sources.resolve(str(where))


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_named_for_what_it_is(copy, whole):
    """Also beside a model, which peft would change if it is installed, and only then."""
    write_json(copy / "adapter_config.json", {"base_model_name_or_path": "owner/model"})
    if not whole:
        (copy / "config.json").unlink()
        (copy / "model.safetensors").rename(copy / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"adapter_config.json: this is .* LoRA.* merge_and_unl"):
        sources.resolve(str(copy))


@pytest.mark.parametrize("name", sources.OBJECTS)
@pytest.mark.parametrize(
    ("text", "said"), [("[]", "no JSON obj"), ("null", "no JSON obj"), ("{", "not valid JSON")]
)
def test_json_that_is_no_object(copy, name, text, said):
    (copy / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name} is {said}.* restore"):
        sources.resolve(str(copy))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("config.json", {"model_type": ["x"]}),
        ("config.json", {"hidden_size": "16"}),
        ("tokenizer.json", {"model": 3}),
        ("tokenizer_config.json", {"eos_token": 3}),
    ],
)
def test_values_that_nothing_can_be_made_of(copy, name, changed):
    tiny_models.edit(copy / name, **changed)
    with pytest.raises(InputError, match=f"{copy} cannot be loaded"):
        load_target(sources.resolve(str(copy)))


@pytest.mark.parametrize("content", [b"", b"<html>" * 100, "cut"])
def test_weights_that_are_not_what_their_name_says(copy, content):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9] if content == "cut" else content)
    with pytest.raises(InputError, match=r"model.safetensors is damaged \(.*\); fetch it again"):
        sources.resolve(str(copy))


def test_the_hash_covers_all_that_is_loaded_and_nothing_else(copy):
    source = sources.resolve(str(copy))
    seen = [sources.weights_hash(source)]
    (copy / "README.md").write_text("a model card")
    assert sources.weights_hash(source) == seen[0]
    (copy / "chat_template.jinja").write_text(tiny_models.TEMPLATE)
    seen.append(sources.weights_hash(source))
    (copy / "modeling_own.py").write_text("1")
    seen.append(sources.weights_hash(source))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        tiny_models.edit(copy / name, note="changed")
        seen.append(sources.weights_hash(source))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    seen.append(sources.weights_hash(source))
    assert len(set(seen)) == 7


# -- what files say of a model -------------------------------------------------------------------


def test_parameters_are_those_of_the_loaded_model_and_parts_are_counted_by_their_index(tmp_path):
    source = sources.resolve(str(tiny_models.save(tmp_path / "model")))
    whole = sum(p.numel() for p in load_target(source)[0].parameters())
    assert sources.n_parameters(source) == whole
    weights = load_file(tmp_path / "model" / "model.safetensors")
    names = sorted(weights)
    files = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, keys in files.items():
        save_file({k: weights[k] for k in keys}, tmp_path / "model" / file)
    index = {"weight_map": {k: file for file, keys in files.items() for k in keys}}
    write_json(tmp_path / "model" / sources.INDEX, index)
    assert sources.n_parameters(source) == whole


def test_models_of_other_shapes_are_of_other_architectures(tmp_path):
    one, other = (
        sources.resolve(str(tiny_models.save(tmp_path / n, n))) for n in ("qwen3", "gpt2")
    )
    assert sources.same_architecture(one, one)
    assert not sources.same_architecture(one, other)
