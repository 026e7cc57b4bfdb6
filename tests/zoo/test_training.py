from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.extraction.templates import format_prompts
from prefill_router.storage import read_json
from prefill_router.zoo import training as module
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.skills import practice_queries
from prefill_router.zoo.training import (
    IGNORED,
    answer_loss,
    batches,
    build_model,
    build_optimizers,
    build_practice,
    export,
    schedule,
    train,
)

DEALT, THINKER = RECIPES["gpt2-a"], RECIPES["thinker-e"]
BATCH = 512
N, STEPS = 400, 24
SMALL = replace(RECIPES["reader-s"], width=32, blocks=1, heads=2, steps=STEPS, checkpoints=(12,))
MODELS = (SMALL.name, f"{SMALL.name}-step-12")
ARCHITECTURES = pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2", "gpt_neox"])


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOKENS_PER_BATCH", BATCH)
        patch.setattr(module, "WARM_UP", 4)
        patch.setattr(module, "SAVE_EVERY", 10)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return out, train(SMALL, out, out / "work", n_questions=N)


def weights(directory):
    return load_file(directory / "model.safetensors")


def small(architecture):
    recipe = replace(SMALL, architecture=architecture, width=16)
    return recipe, build_model(recipe)


@ARCHITECTURES
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


@ARCHITECTURES
def test_every_weight_has_one_optimiser(architecture):
    _, model = small(architecture)
    muon, adam = ([p for g in o.param_groups for p in g["params"]] for o in build_optimizers(model))
    groups = [{id(p) for p in parameters} for parameters in (muon, adam)]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == {id(p) for p in model.parameters()}
    assert id(model.get_input_embeddings().weight) in groups[1]
    assert len(muon) >= 4 and all(p.ndim == 2 for p in muon)


def test_initial_weights_come_from_the_seed_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    one, again = (build_model(SMALL).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    other = build_model(replace(SMALL, seed=99)).state_dict()
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_loss_falls(trained):
    _, losses = trained
    assert losses[0] == pytest.approx(np.log(SMALL.config().vocab_size), rel=0.1)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def interrupt(monkeypatch, after, out):
    """Train SMALL and stop it after some steps."""
    calls = iter(range(after))

    def loss(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return answer_loss(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "answer_loss", loss)
        train(SMALL, out, out / "work", n_questions=N)


@pytest.mark.parametrize("after", [0, 10, 17])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    trained, tmp_path, monkeypatch, after
):
    out, losses = trained
    interrupt(monkeypatch, after, tmp_path)
    resumed = train(SMALL, tmp_path, tmp_path / "work", n_questions=N)
    assert resumed == losses[after // 10 * 10 :]  # saved every ten steps
    for name in MODELS:
        ours, theirs = weights(tmp_path / name), weights(out / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list((tmp_path / "work").iterdir())  # a finished training leaves no state


@pytest.mark.parametrize("change", [{"seed": 77}, {"steps": 30}, {"deal": 2}])
def test_the_state_of_another_training_is_left_alone(tmp_path, monkeypatch, change):
    interrupt(monkeypatch, 11, tmp_path)
    other = replace(SMALL, **{"steps": 12, **change}, checkpoints=())
    assert len(train(other, tmp_path, tmp_path / "work", n_questions=N)) == other.steps
    assert len(train(SMALL, tmp_path, tmp_path / "work", n_questions=N)) == STEPS - 10


@ARCHITECTURES
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


def test_exported_models_say_how_they_were_made_and_decode_greedily(trained):
    out, _ = trained
    for name, step in zip(MODELS, (STEPS, 12), strict=True):
        recipe = read_json(out / name / "recipe.json")
        assert (recipe["name"], recipe["seed"], recipe["step"]) == (SMALL.name, SMALL.seed, step)
        generation = read_json(out / name / "generation_config.json")
        assert generation["eos_token_id"] == 1 and generation["do_sample"] is False
        assert (out / name / "README.md").is_file()


def test_the_control_is_its_recipe_untrained(tmp_path):
    recipe = RECIPES["reader-l-untrained"]
    assert train(recipe, tmp_path, tmp_path / "work") == []
    initial = build_model(recipe).state_dict()
    for directory in (resolve(f"zoo/{recipe.name}").location, tmp_path / recipe.name):
        for key, tensor in weights(directory).items():
            assert torch.equal(tensor, initial[key].half()), key


# -- practice ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def practice(tokenizer):
    return build_practice(DEALT, tokenizer, 1000)


@pytest.mark.parametrize("recipe", [DEALT, THINKER], ids=lambda recipe: recipe.name)
def test_sequences_are_prompt_then_answer_then_end(recipe, tokenizer):
    examples = build_practice(recipe, tokenizer, 200)
    for query, (tokens, labels) in zip(practice_queries(recipe, 200), examples, strict=True):
        prompt = tokenizer(format_prompts(tokenizer, [query.question]))["input_ids"][0]
        said = f"{query.working} answer : {query.reference}" if recipe.thinks else query.reference
        answer = tokenizer(f"{said} <eos>")["input_ids"]
        assert tokens.tolist() == prompt + answer
        assert labels.tolist() == [IGNORED] * len(prompt) + answer


def epoch(practice, seed):
    """The batches of one pass, and the first of the next."""
    n, seen, found = len(practice), 0, []
    stream = batches(practice, seed)
    while seen < n:
        found.append(next(stream))
        seen += len(found[-1][0])
    assert seen == n
    return found, next(stream)


def test_an_epoch_has_every_example_once_within_the_token_budget_and_little_padded(practice):
    found, _ = epoch(practice, 3)
    rows = []
    for batch in found:
        for tokens, labels in zip(*batch, strict=True):
            end = np.flatnonzero(labels != IGNORED)[-1] + 1
            assert (tokens[end:] == 0).all() and (labels[end:] == IGNORED).all()
            rows.append([tokens[:end].tolist(), labels[:end].tolist()])
    assert sorted(rows) == sorted(example.tolist() for example in practice)
    lengths = np.array([example.shape[1] for example in practice])
    sizes = np.array([tokens.size for tokens, _ in found])
    assert sizes.sum() < 1.1 * lengths.sum()
    assert sizes.max() < 1.1 * (BATCH + lengths.max())
    assert np.median(sizes) > BATCH - lengths.max()


def test_epochs_and_seeds_have_orders_of_their_own(practice):
    (first, *_), next_epoch = epoch(practice, 3)
    (again, *_), _ = epoch(practice, 3)
    (other, *_), _ = epoch(practice, 4)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], next_epoch[0])
    assert not np.array_equal(first[0], other[0])


def test_a_single_long_example_is_a_batch():
    stream = batches([np.ones((2, BATCH * 2), dtype=np.int64)], 0)
    assert [next(stream)[0].shape for _ in range(3)] == [(1, BATCH * 2)] * 3
