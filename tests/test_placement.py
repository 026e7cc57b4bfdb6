"""Where a model's weights lie, and in which type: the states that are read of it come out alike."""

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import states_of
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from prefill_router.answers.generation import Decoding, generate
from prefill_router.extraction.models import input_device, load_encoder, load_target
from prefill_router.extraction.sources import resolve

QUESTIONS = tiny_models.questions(20)
PARTS = {  # every weight lies in one of them
    "qwen3": ["embed_tokens", "layers.0", "layers.1", "layers.2", "norm", "rotary_emb"],
    "bert": ["embeddings", *(f"encoder.layer.{i}" for i in range(3)), "pooler"],
    "t5": ["shared", "decoder", *(f"encoder.{part}" for part in (
        "embed_tokens", "block.0", "block.1", "block.2", "final_layer_norm", "dropout"))],
}  # fmt: skip


def away(model):
    """Return whether some weights lie elsewhere than where they are used."""
    return any(parameter.device.type == "meta" for parameter in model.parameters())


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("on_disk", ["some", "all"])
def test_a_model_in_parts_is_read_as_one_in_one_piece(tmp_path, name, on_disk):
    source = resolve(str(tiny_models.save(tmp_path / "model", name, AutoModel)))
    plain = states_of(*load_encoder(source), QUESTIONS)
    stays = {"some": (".0", "embeddings", "embed_tokens", "shared"), "all": ()}[on_disk]
    placement = {part: "cpu" if part.endswith(stays) else "disk" for part in PARTS[name]}
    model, tokenizer = load_encoder(source, placement)
    assert away(model)
    assert input_device(model) == torch.device("cpu")
    for layers in ([1], "all"):  # also after a pass that was left in the middle
        found = states_of(model, tokenizer, QUESTIONS, layers=layers, token_budget=40)
        want = plain if layers == "all" else plain[layers]
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", [{"": "cpu"}, "spread", "auto", "cpu"])
def test_a_model_in_one_piece_is_the_same_however_it_is_asked_for(tmp_path, device):
    source = resolve(str(tiny_models.save(tmp_path / "model")))
    model, tokenizer = load_encoder(source, device)
    found = states_of(model, tokenizer, QUESTIONS)
    plain = states_of(AutoModel.from_pretrained(source.location), tokenizer, QUESTIONS)
    np.testing.assert_array_equal(found, plain)


def test_a_target_in_parts_answers_as_one_in_one_piece(tmp_path):
    source = resolve(str(tiny_models.save(tmp_path / "model")))
    placement = {"model": "disk", "lm_head": "cpu"}
    whole, parts = load_target(source), load_target(source, placement)
    assert away(parts[0])
    (answers, _), (wanted, _) = (generate(*x, QUESTIONS, Decoding(4)) for x in (parts, whole))
    assert answers == wanted


@torch.compiler.set_stance("force_eager")
def test_quantised_weights_stay_quantised(tmp_path, monkeypatch):
    """BitNet's, three values a weight, need no GPU; what others refuse is being moved.

    It rounds activations too, so that only prompts read alone come out alike.
    """
    location = tiny_models.save(tmp_path / "model")
    source = resolve(str(location))
    plain = states_of(*load_encoder(source), QUESTIONS)
    how = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    tiny_models.edit(location / "config.json", quantization_config=how)
    wanted = AutoModel.from_pretrained(location), AutoTokenizer.from_pretrained(location)
    monkeypatch.setattr(PreTrainedModel, "to", lambda *_, **__: pytest.fail("moved"))
    model, tokenizer = load_encoder(source)
    alone = {"poolings": ["last"], "token_budget": 1}
    found = states_of(model, tokenizer, QUESTIONS, **alone)
    assert type(model.layers[0].mlp.up_proj).__name__ == "AutoBitLinear"
    assert np.abs(found[1:] - plain[1:, :1]).max(axis=(1, 2, 3)).min() > 0.1
    np.testing.assert_allclose(found, states_of(*wanted, QUESTIONS, **alone), rtol=0, atol=1e-5)
