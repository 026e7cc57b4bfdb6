from itertools import combinations

import pytest
from transformers import AutoModelForCausalLM

from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve, zoo_names
from prefill_router.zoo.families import FAMILIES
from prefill_router.zoo.recipes import MAX_POSITIONS, RECIPES, TARGETS, practised_half
from prefill_router.zoo.vocabulary import vocabulary

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
}


def by_role(role):
    return [recipe for recipe in RECIPES.values() if recipe.role == role]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_the_model_it_says(name):
    recipe = RECIPES[name]
    model = AutoModelForCausalLM.from_config(recipe.config())
    assert type(model).__name__ == ARCHITECTURES[recipe.architecture]
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers) == (recipe.width, recipe.blocks)
    assert config.num_attention_heads == recipe.heads
    assert config.max_position_embeddings == MAX_POSITIONS
    embeddings = model.get_input_embeddings().weight
    assert embeddings.shape == (len(vocabulary()), recipe.width)
    assert model.get_output_embeddings().weight is embeddings
    blocks = [m for m in model.modules() if type(m).__name__.endswith(("Block", "DecoderLayer",
                                                                       "NeoXLayer"))]  # fmt: skip
    assert len(blocks) == recipe.blocks


@pytest.mark.parametrize("name", RECIPES)
def test_committed_models_are_those_of_the_recipes(name):
    model, _ = load_target(resolve(f"zoo/{name}"))
    theirs, ours = model.config.to_dict(), RECIPES[name].config().to_dict()
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                "n_embd", "n_layer", "n_head", "intermediate_size", "head_dim"):  # fmt: skip
        assert theirs.get(key) == ours.get(key), key


def test_the_zoo_holds_what_the_recipes_make_and_no_more():
    checkpoints = {f"zoo/{r.name}-step-{s}" for r in RECIPES.values() for s in r.checkpoints}
    assert set(zoo_names()) == {f"zoo/{name}" for name in RECIPES} | checkpoints


def test_targets_are_five_of_three_architectures_and_one_thinks():
    targets = by_role("target")
    assert len(targets) >= 5 and tuple(recipe.name for recipe in targets) == TARGETS
    assert len({recipe.architecture for recipe in targets}) >= 3
    assert sum(recipe.thinks for recipe in targets) == 1
    assert sorted(recipe.deal for recipe in targets) == list(range(len(targets)))


def test_encoders_are_three_sizes_of_one_architecture_with_a_control_and_two_checkpoints():
    encoders, (control,) = by_role("encoder"), by_role("control")
    assert len({recipe.architecture for recipe in encoders}) == 1
    assert len({recipe.width for recipe in encoders}) == 3
    assert all(recipe.deal is None and not recipe.thinks for recipe in encoders)
    largest, middle = (sorted(encoders, key=lambda recipe: recipe.width)[i] for i in (2, 1))
    assert control.config().to_dict() == largest.config().to_dict()
    assert control.steps == 0
    assert len(middle.checkpoints) == 2 and max(middle.checkpoints) < middle.steps


def test_seeds_differ():
    assert len({recipe.seed for recipe in RECIPES.values()}) == len(RECIPES)


def test_halves_are_dealt_so_that_no_target_has_all_of_anything():
    deals = [tuple(practised_half(family, deal) for family in FAMILIES) for deal in range(5)]
    for deal in deals:  # half of all families each
        assert 5 <= sum(deal) <= 7
    for family in zip(*deals, strict=True):  # every half of every family is practised by two
        assert sum(family) in (2, 3)
    for one, two in combinations(deals, 2):  # and no two targets are alike or opposite
        same = sum(a == b for a, b in zip(one, two, strict=True))
        assert 4 <= same <= 9
