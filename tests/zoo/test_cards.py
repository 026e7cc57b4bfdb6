import re

import pandas as pd
import pytest
import yaml

from prefill_router import zoo
from prefill_router.extraction.sources import ZOO, zoo_names
from prefill_router.storage import read_json
from prefill_router.zoo.cards import write_card
from prefill_router.zoo.families import FAMILIES, half
from prefill_router.zoo.recipes import RECIPES, TARGETS, practised_half

MODELS = [name.removeprefix("zoo/") for name in zoo_names()]


@pytest.fixture(scope="module")
def scores():
    by = pd.read_parquet(zoo.LABELS).groupby(["model", "split"])
    found = by[["is_correct", "output_tokens"]].mean().assign(n=by.size())
    return found.rename(columns={"is_correct": "accuracy"})


@pytest.mark.parametrize("name", MODELS)
def test_committed_card_is_that_of_the_recipe_and_the_labels(name, scores, tmp_path):
    stored = read_json(ZOO / name / "recipe.json")
    of_target = None
    if name in TARGETS:
        of_target = scores.loc[f"zoo/{name}"].loc[["train", "validation", "test"]]
    write_card(tmp_path, RECIPES[stored["name"]], stored["step"], of_target)
    assert (tmp_path / "README.md").read_text() == (ZOO / name / "README.md").read_text()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_which_half_of_every_family_it_practised(name):
    text = (ZOO / name / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    rows = dict(re.findall(r"\| (\w+) \| (.+) \|", body))
    for family in FAMILIES:
        halves = {half(first) for first in rows[family].split(", ")}
        assert halves == {practised_half(family, RECIPES[name].deal)}
    assert ("its working" in body) == RECIPES[name].thinks


def test_a_target_that_was_not_asked_says_so(tmp_path):
    write_card(tmp_path, RECIPES["gpt2-a"], 5)
    text = (tmp_path / "README.md").read_text()
    assert "Not yet measured" in text and "5 of 1500" in text
