import re
import shutil
from itertools import combinations

import pandas as pd
import pytest

from prefill_router import zoo
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import ZOO, resolve, zoo_names
from prefill_router.storage import read_json
from prefill_router.zoo.families import FAMILIES, half
from prefill_router.zoo.recipes import RECIPES, TARGETS, practised_half, write_card
from prefill_router.zoo.training import build_model
from prefill_router.zoo.wordings import vocabulary


@pytest.mark.parametrize("name", RECIPES)
def test_committed_models_are_those_of_the_recipes(name):
    recipe, source = RECIPES[name], resolve(f"zoo/{name}")
    made_from = vars(recipe) | {"checkpoints": list(recipe.checkpoints), "step": recipe.steps}
    made = read_json(source.location / "recipe.json")
    assert (made.pop("validation_loss") is None) == (recipe.steps == 0)
    assert made == made_from
    model, _ = load_target(source)
    fresh = build_model(recipe)
    assert type(model) is type(fresh)
    assert model.config.num_attention_heads == recipe.heads
    mine, theirs = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, fresh))
    assert mine == theirs
    embeddings = model.get_input_embeddings().weight
    assert embeddings.shape == (len(vocabulary()), recipe.width)
    assert model.get_output_embeddings().weight is embeddings


def test_the_zoo_holds_what_the_recipes_make_and_no_more():
    checkpoints = {f"zoo/{r.name}-step-{s}" for r in RECIPES.values() for s in r.checkpoints}
    assert set(zoo_names()) == {f"zoo/{name}" for name in RECIPES} | checkpoints
    assert len({recipe.seed for recipe in RECIPES.values()}) == len(RECIPES)


def test_the_control_has_the_shape_of_the_largest_encoder():
    encoders = [recipe for recipe in RECIPES.values() if recipe.role == "encoder"]
    largest = max(encoders, key=lambda recipe: recipe.width)
    assert RECIPES["reader-l-untrained"].config().to_dict() == largest.config().to_dict()


def test_halves_are_dealt_so_that_no_target_has_all_of_anything():
    assert [RECIPES[name].deal for name in TARGETS] == list(range(5))
    deals = [tuple(practised_half(family, deal) for family in FAMILIES) for deal in range(5)]
    for deal in deals:  # half of all families each
        assert 5 <= sum(deal) <= 7
    for family in zip(*deals, strict=True):  # every half of every family is practised by two
        assert sum(family) in (2, 3)
    for one, two in combinations(deals, 2):  # and no two targets are alike or opposite
        same = sum(a == b for a, b in zip(one, two, strict=True))
        assert 4 <= same <= 9


def test_committed_cards_are_those_of_the_recipes_and_the_labels(tmp_path):
    by = pd.read_parquet(zoo.LABELS).groupby(["model", "split"])
    scores = by[["is_correct", "output_tokens"]].mean().assign(n=by.size())
    scores = scores.rename(columns={"is_correct": "accuracy"})
    for name in zoo_names():
        directory, is_target = resolve(name).location, name.removeprefix("zoo/") in TARGETS
        shutil.copyfile(directory / "recipe.json", tmp_path / "recipe.json")
        of_target = scores.loc[name].loc[["train", "validation", "test"]] if is_target else None
        write_card(tmp_path, of_target)
        card = tmp_path / "README.md"
        assert card.read_text() == (directory / "README.md").read_text(), name
        if is_target:
            write_card(tmp_path)
            assert "Not yet measured" in card.read_text()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_which_half_of_every_family_it_practised(name):
    rows = dict(re.findall(r"\| (\w+) \| (.+) \|", (ZOO / name / "README.md").read_text()))
    for family in FAMILIES:
        halves = {half(first) for first in rows[family].split(", ")}
        assert halves == {practised_half(family, RECIPES[name].deal)}
