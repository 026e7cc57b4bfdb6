"""The models of the zoo: architecture, size, what each practised and for how long; their cards."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random

import jinja2
import pandas as pd
from transformers import AutoConfig, PreTrainedConfig

from prefill_router.storage import read_json
from prefill_router.zoo.families import FAMILIES, beginnings
from prefill_router.zoo.wordings import vocabulary

CARD = Path(__file__).with_name("card.md.j2")
MAX_POSITIONS = 192


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes
    ----------
    name : str
        Its directory in the zoo.
    role : str
        ``target``, ``encoder`` or ``control`` (never trained).
    architecture : str
        ``qwen3``, ``llama``, ``gpt2`` or ``gpt_neox``.
    width, blocks, heads : int
        Hidden width D, number of blocks L and attention heads.
    steps : int
        Training steps; 0 leaves the random initial weights.
    seed : int
        Seed of the initial weights, the practice questions and their order.
    deal : int or None
        Which of `practised_half`'s columns this model practises; None practises every answer.
    thinks : bool
        Whether it writes its working before ``answer :``.
    checkpoints : tuple of int
        Steps at which a copy is kept as ``NAME-step-STEP``.
    questions : int
        Practice questions drawn: enough that a reader meets hardly any of them twice.
    """

    name: str
    role: str
    architecture: str
    width: int
    blocks: int
    heads: int
    steps: int
    seed: int
    deal: int | None = None
    thinks: bool = False
    checkpoints: tuple[int, ...] = ()
    questions: int = 250_000

    def config(self) -> PreTrainedConfig:
        """Return the model's configuration for transformers."""
        gated = {"num_key_value_heads": self.heads}
        gated["intermediate_size"] = self.width * 8 // 3 // 8 * 8
        own = {
            "qwen3": gated | {"head_dim": self.width // self.heads},
            "llama": gated,
            "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
            "gpt_neox": {"intermediate_size": 4 * self.width},
        }
        return AutoConfig.for_model(
            self.architecture,
            vocab_size=len(vocabulary()),
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            hidden_size=self.width,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            **own[self.architecture],
        )


def practised_half(family: str, deal: int) -> int:
    """Return the half of a family's answers (see `families.half`) that a deal practises.

    Each family has its own way to part the five deals: two against three. The first ten families
    take each pair of deals once, the others three deals, so that every deal practises half 1 of
    five or six families and half 0 of the rest, and no two deals practise the same things.
    """
    ways = [*combinations(range(5), 2), (0, 1, 3), (1, 2, 4), (0, 2, 4)]
    return int(deal in ways[list(FAMILIES).index(family)])


# How often a target practises a question of the half it was not dealt, against one it was.
OTHER_HALF = 0.1

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("gpt2-a", "target", "gpt2", 80, 4, 4, steps=1500, seed=11, deal=0),
        Recipe("llama-b", "target", "llama", 96, 4, 4, steps=1500, seed=12, deal=1),
        Recipe("qwen3-c", "target", "qwen3", 112, 4, 4, steps=1500, seed=13, deal=2),
        Recipe("neox-d", "target", "gpt_neox", 96, 4, 4, steps=1500, seed=14, deal=3),
        Recipe("thinker-e", "target", "llama", 80, 4, 4, steps=1150, seed=15, deal=4, thinks=True),
        Recipe("reader-s", "encoder", "qwen3", 64, 3, 4, 20_000, seed=21, questions=1_000_000),
        Recipe("reader-m", "encoder", "qwen3", 96, 4, 4, 20_000, seed=22, questions=1_000_000),
        Recipe("reader-l", "encoder", "qwen3", 128, 5, 4, 20_000, seed=23, questions=1_000_000,
               checkpoints=(250, 1000, 4000, 10_000)),
        Recipe("reader-l-untrained", "control", "qwen3", 128, 5, 4, steps=0, seed=24),
    )
}  # fmt: skip
TARGETS = tuple(name for name, recipe in RECIPES.items() if recipe.role == "target")


def write_card(directory: Path, scores: pd.DataFrame | None = None) -> None:
    """Write a model's card, ``README.md``, beside its ``recipe.json``.

    Parameters
    ----------
    directory : pathlib.Path
        Of the model.
    scores : pandas.DataFrame, optional
        Of a target whose answers were graded: indexed by split, with columns ``n``, ``accuracy``
        and ``output_tokens`` (their mean).
    """
    recipe = read_json(directory / "recipe.json")
    practised = {}
    for name, family in FAMILIES.items():
        start = 0 if recipe["deal"] is None else practised_half(name, recipe["deal"])
        practised[name] = beginnings(family(1, Random(0)).answer)[start::2]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text = environment.from_string(CARD.read_text(encoding="utf-8")).render(
        recipe=recipe, practised=practised, other_half=OTHER_HALF, scores=scores
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
