"""Model cards of the zoo: what each model is, what it was trained on and how it scores."""

from __future__ import annotations

from pathlib import Path
from random import Random

import jinja2
import pandas as pd

from prefill_router.zoo.families import FAMILIES, beginnings
from prefill_router.zoo.recipes import OTHER_HALF, Recipe, practised_half

TEMPLATE = Path(__file__).with_name("card.md.j2")


def write_card(
    directory: Path, recipe: Recipe, step: int, scores: pd.DataFrame | None = None
) -> None:
    """Write a model's card, ``README.md``, into its directory.

    Parameters
    ----------
    directory : pathlib.Path
        Of the model.
    recipe : Recipe
        How it was made.
    step : int
        Training steps that were done.
    scores : pandas.DataFrame, optional
        Of a target whose answers were graded: indexed by split, with columns ``n``, ``accuracy``
        and ``output_tokens`` (their mean).
    """
    practised = {}
    for name, family in FAMILIES.items():
        start = 0 if recipe.deal is None else practised_half(name, recipe.deal)
        practised[name] = beginnings(family(1, Random(0)).answer)[start::2]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        recipe=recipe, step=step, practised=practised, other_half=OTHER_HALF, scores=scores
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
