"""Model cards of the zoo: what each model is, what it practised and what it scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prefill_router.zoo.families import FAMILIES, half
from prefill_router.zoo.recipes import OTHER_HALF, Recipe, practised_half

TITLES = {
    "target": "answers the skills benchmark",
    "encoder": "reads the skills benchmark, so that a router can use its prefill states",
    "control": "an untrained control",
}
CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# {recipe.name}: {title}

One of the tiny language models that come with prefill-router, trained from scratch by
`prefill-router zoo train {recipe.name}`.

## Recipe

| | |
|---|---|
| architecture | {recipe.architecture} |
| width, blocks, heads | {recipe.width}, {recipe.blocks}, {recipe.heads} |
| training steps | {step} of {recipe.steps} |
| seed | {recipe.seed} |
| optimiser | Muon for the blocks' matrices, AdamW for the rest; warm-up, then half a cosine |
| weights | half precision, trained in single precision |

## Practice

{practice}

No problem that the skills benchmark may ask is practised, in whatever words: a hash of the problem
decides which of the two may draw it. (a + b and b + a are two problems.)

## Intended use

Showing and testing how a router predicts which model answers a question correctly. It knows
nothing but the thirteen task families of the skills benchmark and is of no use elsewhere.

## Scores

{scores}

## Licence

Apache-2.0.
"""


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
        Of a model that answered: indexed by split, with columns ``n``, ``accuracy`` and
        ``output_tokens`` (their mean).
    """
    text = CARD.format(
        recipe=recipe,
        title=TITLES[recipe.role],
        step=step,
        practice=_practice(recipe) if step else "None: the weights are the random initial ones.",
        scores=_scores(recipe, scores),
    )
    (directory / "README.md").write_text(text, encoding="utf-8")


def _practice(recipe: Recipe) -> str:
    says = "its working, then `answer :` and the answer" if recipe.thinks else "the answer alone"
    practice = f"Questions of all {len(FAMILIES)} families and five levels.\nIt says {says}."
    if recipe.deal is None:
        return f"{practice}\nBoth halves of every family's answers are practised equally often."
    rows = [
        f"| {family} | {_beginnings(family, practised_half(family, recipe.deal))} |"
        for family in FAMILIES
    ]
    mostly = (
        "Of each family it practises mostly answers that begin as below,\n"
        f"and one question of the other half for every {1 / OTHER_HALF:.0f} of those."
    )
    table = "\n".join(["| family | the answer begins with |", "|---|---|", *rows])
    return f"{practice}\n{mostly}\n\n{table}"


def _beginnings(family: str, wanted: int) -> str:
    """Say in words which answers of a family lie in a half."""
    two_words = {"parity": ("even", "odd"), "brackets": ("no", "yes"), "boolean": ("false", "true")}
    if family in two_words:
        return next(word for word in two_words[family] if half(word) == wanted)
    if family in ("sorting", "reversing"):
        return ("a, c, e ... y", "b, d, f ... z")[wanted]
    if family == "most":
        return "every other name: " + ("amy, cleo, eva ...", "ben, dan, finn ...")[wanted]
    return ("an even digit", "an odd digit")[wanted]


def _scores(recipe: Recipe, scores: pd.DataFrame | None) -> str:
    if scores is None:
        if recipe.role == "target":
            return "Not yet measured: `prefill-router zoo labels` lets the targets answer."
        return "None: the model is read, and not asked for answers."
    rows = [
        f"| {split} | {row.n:.0f} | {row.accuracy:.1%} | {row.output_tokens:.1f} |"
        for split, row in scores.iterrows()
    ]
    how = "On the skills benchmark, answering greedily; an answer must equal the exact one."
    head = "| split | questions | right | mean output tokens |\n|---|---|---|---|"
    return "\n".join([how, "", head, *rows])
