import pytest
import tiny_models
import torch

from prefill_router.errors import InputError
from prefill_router.extraction import encode
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import resolve, same_architecture
from prefill_router.extraction.untrained import write_untrained


def test_a_control_has_all_of_its_model_but_the_weights(saved, tmp_path):
    source = resolve(str(saved))
    control = resolve(str(write_untrained(source, tmp_path / "a" / "control", seed=1)))
    mine, theirs = source.hashes(), control.hashes()
    differing = {name for name in mine if mine[name] != theirs.get(name)}
    assert mine.keys() == theirs.keys() and differing <= {"model.safetensors", "config.json"}
    (model, _), (drawn, tokenizer) = load_encoder(source), load_encoder(control)
    weights = dict(model.named_parameters())
    for name, parameter in drawn.named_parameters():
        assert parameter.shape == weights[name].shape
    assert not torch.equal(drawn.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert len(encode(drawn, tokenizer, ["w1 w2"]).n_tokens) == 1
    assert same_architecture(source, control)


def test_the_seed_decides_the_weights(saved, tmp_path):
    source = resolve(str(saved))
    made = [write_untrained(source, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1))]
    other = write_untrained(source, tmp_path / "c", 2)
    a, b, c = ((path / "model.safetensors").read_bytes() for path in (*made, other))
    assert a == b != c


def test_what_is_there_is_not_replaced(saved, tmp_path):
    with pytest.raises(InputError, match="not empty"):
        write_untrained(resolve(str(saved)), saved)


def test_models_of_other_shapes_are_of_other_architectures(saved, tmp_path):
    tiny_models.save(tmp_path, "gpt2")
    assert not same_architecture(resolve(str(saved)), resolve(str(tmp_path)))
