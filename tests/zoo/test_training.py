from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefill_router.extraction.models import load_target
from prefill_router.extraction.prompts import format_prompts
from prefill_router.extraction.sources import resolve
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
)  # fmt: skip

BATCH, N, STEPS = 512, 400, 24
SMALL = replace(RECIPES["reader-s"], width=32, blocks=1, heads=2, steps=STEPS, checkpoints=(12,))
MODELS = {SMALL.name: STEPS, f"{SMALL.name}-step-12": 12}


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TOKENS_PER_BATCH": BATCH, "WARM_UP": 4, "SAVE_EVERY": 10}.items():
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return out, train(SMALL, out, out / "work", n_questions=N)


@pytest.fixture(params=["qwen3", "llama", "gpt2", "gpt_neox"])
def small(request):
    recipe = replace(SMALL, architecture=request.param, width=16)
    return recipe, build_model(recipe)


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


# -- practice ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2-a", "thinker-e"])
def test_sequences_are_prompt_then_answer_then_end(name, tokenizer):
    recipe = RECIPES[name]
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


def test_epochs_have_every_example_once_little_padded_in_orders_of_their_own(tokenizer):
    practice = build_practice(RECIPES["gpt2-a"], tokenizer, 1000)
    found, after = epoch(practice, 3)
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
    first, again, other = (one[0] for one in (found[0], epoch(practice, 3)[0][0], after))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, epoch(practice, 4)[0][0][0])


def test_a_single_long_example_is_a_batch():
    stream = batches([np.ones((2, BATCH * 2), dtype=np.int64)], 0)
    assert [next(stream)[0].shape for _ in range(3)] == [(1, BATCH * 2)] * 3


# -- training ------------------------------------------------------------------------------------


def test_loss_is_that_of_transformers_with_a_mask(small):
    _, model = small
    tokens = torch.from_numpy(np.random.default_rng(0).integers(5, 100, (3, 12)))
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


def test_every_weight_has_one_optimiser(small):
    _, model = small
    muon, adam = ({p for g in o.param_groups for p in g["params"]} for o in build_optimizers(model))
    assert not muon & adam and muon | adam == set(model.parameters())
    assert model.get_input_embeddings().weight in adam
    assert len(muon) >= 4 and all(p.ndim == 2 for p in muon)


def test_initial_weights_come_from_the_seed_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    one, again, other = (build_model(replace(SMALL, seed=s)).state_dict() for s in (7, 7, 99))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, again) and not same(one, other)


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
    assert all(same(weights(out / name), weights(tmp_path / name)) for name in MODELS)
    assert not list((tmp_path / "work").iterdir())  # a finished training leaves no state


@pytest.mark.parametrize("change", [{"seed": 77}, {"steps": 30}, {"deal": 2}])
def test_the_state_of_another_training_is_left_alone(tmp_path, monkeypatch, change):
    interrupt(monkeypatch, 11, tmp_path)
    other = replace(SMALL, **{"steps": 12, **change}, checkpoints=())
    assert len(train(other, tmp_path, tmp_path / "work", n_questions=N)) == other.steps
    assert len(train(SMALL, tmp_path, tmp_path / "work", n_questions=N)) == STEPS - 10


# -- what is written -----------------------------------------------------------------------------


def test_exported_models_say_the_same_within_half_precision(small, tmp_path, capfd):
    recipe, model = small
    export(model, recipe, tmp_path, 0)
    assert capfd.readouterr() == ("", "")  # no bar on a page of the book
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (again.dtype, model.dtype) == (torch.float16, torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("<user> what is 3 plus 4 ? <assistant>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        said, wanted = again.float()(ids).logits, model(ids).logits
    torch.testing.assert_close(said, wanted, rtol=2e-2, atol=2e-3)
    assert load_target(resolve(str(tmp_path)))[0].dtype == torch.float32


def test_exported_models_say_how_they_were_made_and_decode_greedily(trained):
    out, _ = trained
    for name, step in MODELS.items():
        recipe = read_json(out / name / "recipe.json")
        assert (recipe["name"], recipe["seed"], recipe["step"]) == (SMALL.name, SMALL.seed, step)
        generation = read_json(out / name / "generation_config.json")
        assert generation["eos_token_id"] == 1 and generation["do_sample"] is False
        assert (out / name / "README.md").is_file()


def test_the_control_is_its_recipe_untrained(tmp_path):
    recipe = RECIPES["reader-l-untrained"]
    assert train(recipe, tmp_path, tmp_path / "work") == []
    initial = {key: tensor.half() for key, tensor in build_model(recipe).state_dict().items()}
    for directory in (resolve(f"zoo/{recipe.name}").location, tmp_path / recipe.name):
        assert same(weights(directory), initial)
