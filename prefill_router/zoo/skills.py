"""The skills benchmark: questions with exact answers; no problem straddles a split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random

import numpy as np
import pandas as pd

from prefill_router.zoo.families import FAMILIES, LEVELS, half
from prefill_router.zoo.wordings import TEMPLATES, put_into_words

BENCHMARK_SEED = 20260323
BENCHMARK_SHARE = 0.25
"""Share of all problems that only the benchmark may ask; models practise on the others."""
PER_CELL = {"train": 70, "validation": 16, "test": 25}
"""Questions asked for in each cell (family, level, half of the answers), at most."""
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
    operands = " | ".join(str(value) for value in problem.slots.values())
    return Query(
        family=family,
        level=level,
        wording=wording,
        half=wanted_half,
        question=put_into_words(family, problem, wording, rng),
        reference=problem.answer,
        working=problem.working,
        group=f"{family}: {operands}",
    )


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
