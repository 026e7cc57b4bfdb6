import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.zoo import training as module
from prefill_router.zoo.practice import IGNORED
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.training import (
    answer_loss,
    build_model,
    build_optimizers,
    export,
    schedule,
    train,
)

POOL, STEPS = 400, 24
SMALL = replace(RECIPES["reader-s"], width=32, blocks=1, heads=2, steps=STEPS, checkpoints=(12,))
ARCHITECTURES = ("qwen3", "llama", "gpt2", "gpt_neox")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr("prefill_router.zoo.practice.TOKENS_PER_BATCH", 512)
    monkeypatch.setattr(module, "WARM_UP", 4)
    monkeypatch.setattr(module, "SAVE_EVERY", 10)


def weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefill_router.zoo.practice.TOKENS_PER_BATCH", 512)
        patch.setattr(module, "WARM_UP", 4)
        out = tmp_path_factory.mktemp("trained")
        return out, train(SMALL, out, out / "work", pool=POOL)


def small(architecture, width=16):
    recipe = replace(SMALL, architecture=architecture, width=width)
    return recipe, build_model(recipe)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_is_that_of_transformers_with_a_mask(architecture):
    _, model = small(architecture)
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(5, 100, (3, 12)))
    labels, mask = torch.full_like(tokens, IGNORED), torch.ones_like(tokens)
    for row, (start, end) in enumerate([(4, 12), (7, 9), (2, 5)]):
        labels[row, start:end] = tokens[row, start:end]
        tokens[row, end:], mask[row, end:] = 0, 0
    with torch.no_grad():
        expected = model(tokens, attention_mask=mask, labels=labels).loss
        torch.testing.assert_close(answer_loss(model, tokens, labels), expected)


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert rates[52] == pytest.approx(0.5) and 0 < rates[-1] < 0.001
    assert [schedule(step, 2) for step in range(2)] == [0.25, 0.5]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_has_one_optimiser(architecture):
    _, model = small(architecture)
    muon, adam = build_optimizers(model)
    assert isinstance(muon, torch.optim.Muon)
    groups = [{id(p) for g in o.param_groups for p in g["params"]} for o in (muon, adam)]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == {id(p) for p in model.parameters()}
    assert id(model.get_input_embeddings().weight) in groups[1]
    assert len(groups[0]) >= 4
    assert all(p.ndim == 2 for g in muon.param_groups for p in g["params"])


def test_initial_weights_come_from_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again = (small("llama")[1].state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    other = build_model(replace(SMALL, architecture="llama", width=16, seed=99)).state_dict()
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_loss_falls(tmp_path):
    recipe = replace(SMALL, steps=40, checkpoints=())
    losses = train(recipe, tmp_path, tmp_path, pool=POOL)
    assert len(losses) == 40
    assert losses[0] == pytest.approx(np.log(recipe.config().vocab_size), rel=0.1)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_training_is_deterministic(trained, tmp_path):
    out, losses = trained
    assert train(SMALL, tmp_path, tmp_path, pool=POOL) == losses
    for name in (SMALL.name, f"{SMALL.name}-step-12"):
        ours, theirs = weights(tmp_path / name), weights(out / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def interrupt(monkeypatch, after, recipe, out, **settings):
    calls = []

    def loss(*args):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return answer_loss(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "answer_loss", loss)
        train(recipe, out, out / "work", **settings)


@pytest.mark.parametrize("after", [7, 10, 17])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    trained, tmp_path, monkeypatch, after
):
    out, losses = trained
    interrupt(monkeypatch, after, SMALL, tmp_path, pool=POOL)
    resumed = train(SMALL, tmp_path, tmp_path / "work", pool=POOL)
    assert len(resumed) == STEPS - after // 10 * 10  # saved every ten steps
    np.testing.assert_allclose(resumed, losses[-len(resumed) :], rtol=1e-5)
    for name in (SMALL.name, f"{SMALL.name}-step-12"):
        ours, theirs = weights(tmp_path / name), weights(out / name)
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("change", [{"seed": 77}, {"steps": 30}, {"deal": 2}, {"width": 16}])
def test_the_state_of_another_training_is_left_alone(tmp_path, monkeypatch, change):
    interrupt(monkeypatch, 11, SMALL, tmp_path, pool=POOL)
    other = replace(SMALL, **{"steps": 12, **change}, checkpoints=())
    assert len(train(other, tmp_path, tmp_path / "work", pool=POOL)) == other.steps
    assert len(train(SMALL, tmp_path, tmp_path / "work", pool=POOL)) == STEPS - 10


def test_a_finished_training_leaves_no_state_behind(tmp_path):
    short = replace(SMALL, steps=10, checkpoints=())
    for _ in range(2):
        assert len(train(short, tmp_path, tmp_path / "work", pool=50)) == 10
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exported_models_say_the_same_within_half_precision(architecture, tmp_path, capfd):
    recipe, model = small(architecture)
    export(model, recipe, tmp_path, 0)
    assert capfd.readouterr() == ("", "")  # no bar on a page of the book
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert again.dtype == torch.float16
    ids = tokenizer("<user> what is 3 plus 4 ? <assistant>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(
            again.float()(ids).logits, model(ids).logits, rtol=2e-2, atol=2e-3
        )
    assert model.dtype == torch.float32
    assert load_target(resolve(str(tmp_path)))[0].dtype == torch.float32


def test_exported_files_are_the_hubs_layout(trained):
    out, _ = trained
    for directory, step in ((out / SMALL.name, STEPS), (out / f"{SMALL.name}-step-12", 12)):
        names = {path.name for path in directory.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json",
                "chat_template.jinja", "README.md", "recipe.json"} <= names  # fmt: skip
        assert all(tensor.dtype == torch.float16 for tensor in weights(directory).values())
        recipe = json.loads((directory / "recipe.json").read_text())
        assert (recipe["name"], recipe["seed"], recipe["step"]) == (SMALL.name, SMALL.seed, step)
        generation = json.loads((directory / "generation_config.json").read_text())
        assert generation["eos_token_id"] == 1 and generation["do_sample"] is False


def test_without_steps_the_initial_weights_are_exported(tmp_path):
    recipe = replace(SMALL, steps=0, checkpoints=())
    assert train(recipe, tmp_path, tmp_path / "work") == []
    initial = build_model(recipe).state_dict()
    for key, tensor in weights(tmp_path / recipe.name).items():
        assert torch.equal(tensor, initial[key].half())


def test_the_control_is_its_recipe_untrained():
    recipe = RECIPES["reader-l-untrained"]
    initial = build_model(recipe).state_dict()
    for key, tensor in weights(resolve(f"zoo/{recipe.name}").location).items():
        assert torch.equal(tensor, initial[key].half()), key
