from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefill_router.extraction.models import load_target
from prefill_router.extraction.prompts import format_prompts
from prefill_router.extraction.sources import resolve
from prefill_router.storage import read_json
from prefill_router.zoo import training as it
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.skills import practice_queries

BATCH, N, STEPS = 512, 400, 24
SMALL = replace(
    RECIPES["reader-s"], width=32, blocks=1, heads=2, steps=STEPS, checkpoints=(12,), questions=N
)
SIZES = {"TOKENS_PER_BATCH": BATCH, "WARM_UP": 4, "SAVE_EVERY": 10, "HELD_OUT": 60}
MODELS = {SMALL.name: STEPS, f"{SMALL.name}-step-12": 12}


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SIZES.items():
            patch.setattr(it, name, value)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return out, it.train(SMALL, out, out / "work")


@pytest.fixture(params=["qwen3", "llama", "gpt2", "gpt_neox"])
def small(request):
    recipe = replace(SMALL, architecture=request.param, width=16)
    return recipe, it.build_model(recipe)


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


# -- practice ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2-a", "thinker-e"])
def test_sequences_are_prompt_then_answer_then_end(name, tokenizer):
    recipe = RECIPES[name]
    examples = it.build_practice(recipe, tokenizer, 200)
    for query, (tokens, labels) in zip(practice_queries(recipe, 200), examples, strict=True):
        prompt = tokenizer(format_prompts(tokenizer, [query.question]))["input_ids"][0]
        said = f"{query.working} answer : {query.reference}" if recipe.thinks else query.reference
        answer = tokenizer(f"{said} <eos>")["input_ids"]
        assert tokens.tolist() == prompt + answer
        assert labels.tolist() == [it.IGNORED] * len(prompt) + answer


def test_epochs_have_every_example_once_little_padded_in_orders_of_their_own(tokenizer):
    practice = it.build_practice(RECIPES["gpt2-a"], tokenizer, 1000)
    stream, found, rows = it.batches(practice, 3), [], []
    while len(rows) < len(practice):
        found.append(next(stream))
        for tokens, labels in zip(*found[-1], strict=True):
            end = np.flatnonzero(labels != it.IGNORED)[-1] + 1
            assert (tokens[end:] == 0).all() and (labels[end:] == it.IGNORED).all()
            rows.append([tokens[:end].tolist(), labels[:end].tolist()])
    assert sorted(rows) == sorted(example.tolist() for example in practice)
    lengths = np.array([example.shape[1] for example in practice])
    sizes = np.array([tokens.size for tokens, _ in found])
    assert sizes.sum() < 1.1 * lengths.sum()
    assert sizes.max() < 1.1 * (BATCH + lengths.max())
    assert np.median(sizes) > BATCH - lengths.max()
    first, again, seed_4 = (next(it.batches(practice, seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again) and np.array_equal(first, found[0][0])
    assert not np.array_equal(first, seed_4) and not np.array_equal(first, next(stream)[0])
    stream = it.batches([np.ones((2, BATCH * 2), dtype=np.int64)], 0)  # one long example is a batch
    assert [next(stream)[0].shape for _ in range(3)] == [(1, BATCH * 2)] * 3


# -- training ------------------------------------------------------------------------------------


def test_loss_is_that_of_transformers_with_a_mask(small):
    _, model = small
    tokens = torch.from_numpy(np.random.default_rng(0).integers(5, 100, (3, 12)))
    labels, mask = torch.full_like(tokens, it.IGNORED), torch.ones_like(tokens)
    for row, (start, end) in enumerate([(4, 12), (7, 9), (2, 5)]):
        labels[row, start:end] = tokens[row, start:end]
        tokens[row, end:], mask[row, end:] = 0, 0
    with torch.no_grad():
        expected = model(tokens, attention_mask=mask, labels=labels).loss
        torch.testing.assert_close(it.answer_loss(model, tokens, labels), expected)


def test_validation_loss_is_per_token_on_questions_that_were_not_practised(small, tokenizer):
    recipe, model = small
    practice = it.build_practice(recipe, tokenizer, 300)
    others = it.build_practice(replace(recipe, seed=recipe.seed + 10_000), tokenizer, it.HELD_OUT)
    practised, new = others[:20], others[20:]
    with torch.no_grad():
        losses = [it.answer_loss(model, *torch.from_numpy(o)[:, None]).item() for o in new]
    weights = [(o[1, 1:] != it.IGNORED).sum() for o in new]
    found = it.validation_loss(model, recipe, [*practice, *practised])
    assert found == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = np.array([it.schedule(step, 100) for step in range(100)])
    assert rates[:4].tolist() == [0.25, 0.5, 0.75, 1.0] and (np.diff(rates[4:]) < 0).all()
    assert rates[52] == pytest.approx(0.5) and 0 < rates[-1] < 0.001


def test_every_weight_has_one_optimiser(small):
    _, model = small
    optimizers = it.build_optimizers(model)
    muon, adam = ({p for g in o.param_groups for p in g["params"]} for o in optimizers)
    assert not muon & adam and muon | adam == set(model.parameters())
    assert model.get_input_embeddings().weight in adam
    assert len(muon) >= 4 and all(p.ndim == 2 for p in muon)


def test_initial_weights_come_from_the_seed_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    one, again, other = (it.build_model(replace(SMALL, seed=s)).state_dict() for s in (7, 7, 99))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, again) and not same(one, other)


def interrupt(monkeypatch, after, out):
    """Train SMALL and stop it after some steps."""
    calls, plain = iter(range(after)), it.answer_loss

    def loss(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(it, "answer_loss", loss)
        it.train(SMALL, out, out / "work")


def test_an_interrupted_training_ends_as_an_uninterrupted_one_whatever_is_trained_between(
    trained, tmp_path, monkeypatch
):
    out, losses = trained
    interrupt(monkeypatch, 17, tmp_path)
    for change in ({"seed": 77}, {"steps": 15}, {"deal": 2}):
        other = replace(SMALL, **{"steps": 12, **change}, checkpoints=())
        assert len(it.train(other, tmp_path, tmp_path / "work")) == other.steps
    resumed = it.train(SMALL, tmp_path, tmp_path / "work")
    assert resumed == losses[10:]  # saved every ten steps
    assert all(same(weights(out / name), weights(tmp_path / name)) for name in MODELS)
    assert not list((tmp_path / "work").iterdir())  # a finished training leaves no state


# -- what is written -----------------------------------------------------------------------------


def test_exported_models_say_the_same_within_half_precision(small, tmp_path, capfd):
    recipe, model = small
    it.export(model, recipe, tmp_path, 0)
    assert capfd.readouterr() == ("", "")  # no bar on a page of the book
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (again.dtype, model.dtype) == (torch.float16, torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("<user> what is 3 plus 4 ? <assistant>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        said, wanted = again.float()(ids).logits, model(ids).logits
    torch.testing.assert_close(said, wanted, rtol=2e-2, atol=2e-3)
    assert load_target(resolve(str(tmp_path)))[0].dtype == torch.float32


def test_loss_falls_and_exported_models_say_how_they_were_made_and_decode_greedily(trained):
    out, losses = trained
    assert losses[0] == pytest.approx(np.log(SMALL.config().vocab_size), rel=0.1)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    for name, step in MODELS.items():
        recipe = read_json(out / name / "recipe.json")
        assert 2 < recipe.pop("validation_loss") < np.log(SMALL.config().vocab_size)
        assert recipe == vars(SMALL) | {"checkpoints": [12], "step": step}
        generation = read_json(out / name / "generation_config.json")
        assert generation["eos_token_id"] == 1 and generation["do_sample"] is False


def test_the_control_is_its_recipe_untrained(tmp_path):
    recipe = RECIPES["reader-l-untrained"]
    assert it.train(recipe, tmp_path, tmp_path / "work") == []
    initial = {key: tensor.half() for key, tensor in it.build_model(recipe).state_dict().items()}
    for directory in (resolve(f"zoo/{recipe.name}").location, tmp_path / recipe.name):
        assert same(weights(directory), initial)
