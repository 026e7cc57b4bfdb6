"""Questions with exact answers: the skills benchmark, and what models practise.

No problem straddles the benchmark's splits, and none that it may ask is practised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random

import numpy as np
import pandas as pd

from prefill_router.zoo.families import FAMILIES, LEVELS, half
from prefill_router.zoo.recipes import OTHER_HALF, Recipe, practised_half
from prefill_router.zoo.wordings import TEMPLATES, put_into_words

BENCHMARK_SEED = 20260323
BENCHMARK_SHARE = 0.25  # of all problems, which only the benchmark may ask: models practise others
# Questions asked for in each cell (family, level, half of the answers), at most.
PER_CELL = {"train": 70, "validation": 16, "test": 25}
_ENDS = np.cumsum([*PER_CELL.values()]) / sum(PER_CELL.values()) * BENCHMARK_SHARE


@dataclass(frozen=True)
class Query:
    """One question of the skills benchmark.

    Attributes
    ----------
    family, level, wording : str, int, int
        Which task, how hard, and which of the family's templates.
    half : int
        0 or 1, by the token that the answer begins with (`families.half`).
    question, reference, working : str
        What is asked, the exact answer, and the steps that lead to it.
    group : str
        Names the family and its operands: all wordings of one problem share it.
    """

    family: str
    level: int
    wording: int
    half: int
    question: str
    reference: str
    working: str
    group: str


def draw(family: str, level: int, wanted_half: int, rng: Random) -> Query:
    """Draw one question whose answer lies in the wanted half of its family.

    Both halves are drawn equally often at every family and level, so that neither of the two
    tells a router which half an answer lies in.
    """
    problem = FAMILIES[family](level, rng)
    while half(problem.answer) != wanted_half:
        problem = FAMILIES[family](level, rng)
    wording = rng.randrange(len(TEMPLATES[family]))
    question = put_into_words(family, problem, wording, rng)
    group = f"{family}: " + " | ".join(str(value) for value in problem.slots.values())
    answer, working = problem.answer, problem.working
    return Query(family, level, wording, wanted_half, question, answer, working, group)


def split_of(group: str) -> str:
    """Return ``practice``, ``train``, ``validation`` or ``test``, by the problem's hash alone."""
    digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    ends = zip(PER_CELL, _ENDS, strict=True)
    return next((split for split, end in ends if place < end), "practice")


@cache
def benchmark(seed: int = BENCHMARK_SEED, attempts: int = 6000) -> pd.DataFrame:
    """Build the benchmark; called again, it returns the same table, which is not to be changed.

    Parameters
    ----------
    seed : int
        Seed of the draws; every cell has its own stream.
    attempts : int
        Draws made for a cell; one that has too few distinct questions stays smaller.

    Returns
    -------
    pandas.DataFrame
        One row a question, in a shuffled order: ``query_id, question, benchmark`` (the family),
        ``reference, group, split, level, wording, half``; no two questions alike.
    """
    rows: dict[str, dict] = {}
    for family, level, wanted_half in product(FAMILIES, LEVELS, (0, 1)):
        rng = Random(f"{seed} {family} {level} {wanted_half}")
        room = dict(PER_CELL)
        for _ in range(attempts):
            query = draw(family, level, wanted_half, rng)
            split = split_of(query.group)
            if room.get(split, 0) and query.question not in rows:
                room[split] -= 1
                rows[query.question] = vars(query) | {"split": split}
            if not any(room.values()):
                break
    table = pd.DataFrame(list(rows.values())).rename(columns={"family": "benchmark"})
    table = table.iloc[np.random.default_rng(seed).permutation(len(table))].reset_index(drop=True)
    table.insert(0, "query_id", [f"skills-{i:05d}" for i in range(len(table))])
    columns = ["query_id", "question", "benchmark", "reference", "group", "split"]
    return table[[*columns, "level", "wording", "half"]]


def practice_queries(recipe: Recipe, n: int) -> Iterator[Query]:
    """Draw `n` questions for a model to practise, none of a problem that the benchmark may ask."""
    rng = Random(recipe.seed)
    names = list(FAMILIES)
    for _ in range(n):
        family = rng.choice(names)
        if recipe.deal is None:
            wanted = rng.randrange(2)
        else:
            strayed = rng.random() < OTHER_HALF / (1 + OTHER_HALF)
            wanted = practised_half(family, recipe.deal) ^ int(strayed)
        level = rng.choice(LEVELS)
        query = draw(family, level, wanted, rng)
        while split_of(query.group) != "practice":
            query = draw(family, level, wanted, rng)
        yield query


def answer_text(recipe: Recipe, query: Query) -> str:
    """Return what the model should say: the answer, after the working if it thinks."""
    return f"{query.working} answer : {query.reference}" if recipe.thinks else query.reference
