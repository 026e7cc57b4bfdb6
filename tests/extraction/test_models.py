import pytest
import tiny_models
import torch
from architectures import VISION
from transformers import AutoConfig, AutoModel

from prefill_router.errors import InputError
from prefill_router.extraction import models
from prefill_router.extraction.sources import read_config, resolve, same_architecture
from prefill_router.storage import write_json


def test_code_of_its_own_is_not_run(copy, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask
    monkeypatch.setattr("signal.signal", lambda *_: None)
    code = "raise SystemExit('ran')"
    (copy / "modeling.py").write_text(code)
    own = {"AutoConfig": "modeling.MyConfig", "AutoModel": "modeling.Mine"}
    tiny_models.edit(copy / "config.json", model_type="mine", auto_map=own)
    with pytest.raises(InputError, match="trust_remote_code=True"):
        models.load_encoder(resolve(str(copy)))
    with pytest.raises(InputError, match="cannot be used"):
        read_config(resolve(str(copy)))
    tiny_models.edit(copy / "config.json", model_type="qwen3")  # known without that code
    assert type(models.load_encoder(resolve(str(copy)))[0]).__name__ == "Qwen3Model"


def test_an_unknown_architecture_is_an_input_error(copy):
    tiny_models.edit(copy / "config.json", model_type="no-such-type")
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load_target(resolve(str(copy)))


def test_weights_that_are_not_in_the_file_are_not_made_up(tmp_path):
    """A headless checkpoint has no head to answer with: transformers would draw a random one."""
    tiny_models.save(tmp_path, auto=AutoModel)
    source = resolve(str(tmp_path))
    models.load_encoder(source)
    with pytest.raises(InputError, match="lm_head"):
        models.load_target(source)


def test_loaded_weights_are_the_saved_ones_in_the_type_asked_for(saved, capfd):
    source = resolve(str(saved))
    model, tokenizer = models.load_encoder(source)
    expected = tiny_models.model("qwen3", models.AutoModelForCausalLM).model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert tokenizer("w3").input_ids == [len(tiny_models.SPECIAL) + 3]
    assert models.load_target(source, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert capfd.readouterr().err == ""
    with pytest.raises(InputError, match="float32"):
        models.load_encoder(source, dtype="flaot32")


@pytest.mark.parametrize("own", [None, "{{ messages[0].content }} w3"])
def test_the_template_in_a_processors_file_is_used_where_there_is_no_other(own, tmp_path):
    write_json(tiny_models.save(tmp_path, template=own) / "chat_template.json",
               {"chat_template": tiny_models.TEMPLATE})  # fmt: skip
    _, tokenizer = models.load_encoder(resolve(str(tmp_path)))
    assert tokenizer.chat_template == (own or tiny_models.TEMPLATE)


@pytest.mark.parametrize(
    ("kind", "reads", "shape"),
    [
        ("vit", "pixel_values", {}),
        ("wav2vec2", "input_values", {"conv_dim": [8], "conv_kernel": [2], "conv_stride": [2]}),
    ],
)
def test_a_model_that_reads_no_text_is_refused(kind, reads, shape, tmp_path):
    AutoModel.from_config(AutoConfig.for_model(kind, **VISION | shape)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="reads no text"):
        resolve(str(tmp_path))
    tiny_models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"reads {reads}, not text"):
        models.load_encoder(resolve(str(tmp_path)))


# -- devices -------------------------------------------------------------------------------------


def test_the_best_device_is_picked(monkeypatch):
    assert models.pick_device("cpu") == torch.device("cpu")
    assert models.device_map("spread") == "auto"
    assert models.device_map("cpu") == {"": torch.device("cpu")}
    for check in (models.pick_device, models.device_map, models.training_device):
        with pytest.raises(InputError, match="try cpu or auto"):
            check("gpu")
    assert models.training_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.pick_device("auto") == torch.device("cuda")
    for many in ("auto", "spread", {"": 0, "lm_head": 1}):
        assert models.training_device(many) == torch.device("cuda")


# -- the untrained control -----------------------------------------------------------------------


def test_a_control_has_all_of_its_model_but_the_weights(saved, tmp_path):
    source = resolve(str(saved))
    control = resolve(str(models.write_untrained(source, tmp_path / "a" / "control", seed=1)))
    mine, theirs = source.hashes(), control.hashes()
    differing = {name for name in mine if mine[name] != theirs.get(name)}
    assert mine.keys() == theirs.keys() and differing <= {"model.safetensors", "config.json"}
    (model, _), (drawn, tokenizer) = models.load_encoder(source), models.load_encoder(control)
    weights = dict(model.named_parameters())
    for name, parameter in drawn.named_parameters():
        assert parameter.shape == weights[name].shape
    assert not torch.equal(drawn.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert len(tiny_models.read(drawn, tokenizer, ["w1 w2"])) == 1
    assert same_architecture(source, control)
    again, other = (models.write_untrained(source, tmp_path / str(i), i) for i in (1, 2))
    drawn, same, others = (
        (path / "model.safetensors").read_bytes() for path in (control.location, again, other)
    )
    assert drawn == same != others
    with pytest.raises(InputError, match="not empty"):
        models.write_untrained(source, saved)
