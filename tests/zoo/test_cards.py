import re
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from prefill_router.extraction.sources import ZOO, zoo_names
from prefill_router.zoo.cards import write_card
from prefill_router.zoo.families import FAMILIES, half
from prefill_router.zoo.recipes import RECIPES, TARGETS, practised_half


def card(directory, recipe, step=0, scores=None):
    write_card(directory, recipe, step, scores)
    return (directory / "README.md").read_text()


def test_front_matter_is_the_hubs(tmp_path):
    _, front, body = card(tmp_path, RECIPES["gpt2-a"], 5).split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert body.strip().startswith("# gpt2-a")


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_which_half_of_every_family_it_practised(name, tmp_path):
    recipe = RECIPES[name]
    text = card(tmp_path, recipe, recipe.steps)
    rows = dict(re.findall(r"\| (\w+) \| (.+) \|", text))
    for family in FAMILIES:
        said = rows[family]
        mine = practised_half(family, recipe.deal)
        if "digit" in said:
            assert said == f"an {('even', 'odd')[mine]} digit"
        else:
            words = re.findall(r"\w+", said.split(":")[-1])
            assert {half(first) for first in words} == {mine}
    assert ("working" in text) == recipe.thinks


def test_readers_and_the_control_say_what_they_are(tmp_path):
    assert "Both halves" in card(tmp_path, RECIPES["reader-m"], 250)
    assert "250 of 3000" in card(tmp_path, RECIPES["reader-m"], 250)
    assert "random initial" in card(tmp_path, RECIPES["reader-l-untrained"])


def test_scores_are_shown_by_split(tmp_path):
    scores = pd.DataFrame(
        {"n": [70, 30], "accuracy": [0.5, 0.123], "output_tokens": [3.0, 14.25]},
        index=["train", "test"],
    )
    recipe = replace(RECIPES["gpt2-a"], name="x")
    assert "Not yet measured" in card(tmp_path, recipe, 1)
    text = card(tmp_path, recipe, 1, scores)
    assert "| train | 70 | 50.0% | 3.0 |" in text
    assert "| test | 30 | 12.3% | 14.2 |" in text
    assert "Not yet" not in text


def test_every_committed_model_has_its_card_and_targets_their_scores():
    for name in zoo_names():
        text = (ZOO / name.removeprefix("zoo/") / "README.md").read_text()
        assert text.count("license: apache-2.0") == 1
        assert "Not yet measured" not in text
        assert ("| validation |" in text) == (name.removeprefix("zoo/") in TARGETS)
