import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from solver import read_number, slots_of, solve, without_aside

from prefill_router.zoo.families import FAMILIES, LEVELS, half
from prefill_router.zoo.skills import PER_CELL, benchmark, position, split_of

FEW_ATTEMPTS = 40
CELL = ["split", "benchmark", "level"]


def fingerprint(table):
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def test_every_answer_follows_from_the_text_alone(queries):
    for row in queries.itertuples():
        slots = slots_of(row.benchmark, row.wording, without_aside(row.question))
        assert solve(row.benchmark, slots) == row.reference, row.question


def test_another_process_builds_the_same_benchmark():
    code = (
        "import hashlib; from prefill_router.zoo.skills import benchmark;"
        f"text = benchmark(attempts={FEW_ATTEMPTS}).to_csv(index=False);"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert theirs.stdout.strip() == fingerprint(benchmark(attempts=FEW_ATTEMPTS))


def test_another_seed_builds_another_benchmark_with_the_same_splits():
    one, two = (benchmark(seed=seed, attempts=FEW_ATTEMPTS) for seed in (1, 2))
    assert len(set(one["question"]) & set(two["question"])) < len(one) / 2
    together = pd.concat([one, two]).groupby("group")["split"].nunique()
    assert together.max() == 1


def test_sizes(queries):
    n = queries["split"].value_counts()
    assert n["train"] >= 9000
    assert 1900 <= n["validation"] <= 2100
    assert n["test"] >= 3000
    assert set(queries["split"]) == set(PER_CELL)


def test_families_are_all_there_at_every_level(queries):
    assert len(FAMILIES) >= 12 and len(LEVELS) == 5
    n = queries.groupby(CELL).size().groupby("split").size()
    assert n["train"] == len(FAMILIES) * len(LEVELS)
    # the shortest rows of bits and of brackets have too few problems to be in all splits
    assert (n >= len(FAMILIES) * len(LEVELS) - 2).all()
    assert (queries.groupby("split")["benchmark"].nunique() == len(FAMILIES)).all()


def test_no_problem_straddles_splits(queries):
    assert queries.groupby("group")["split"].nunique().max() == 1
    assert queries["split"].tolist() == [split_of(group) for group in queries["group"]]


def test_no_wording_of_the_same_operands_straddles_splits(queries):
    """As told by the text itself, with numbers spelled out or not."""
    seen = {}
    for row in queries.itertuples():
        slots = slots_of(row.benchmark, row.wording, without_aside(row.question))
        names = sorted(slots)
        if row.benchmark in ("addition", "remainder"):
            operands = tuple(read_number(slots[name]) for name in names)
        else:
            operands = tuple(slots[name] for name in names)
        assert seen.setdefault((row.benchmark, operands), row.split) == row.split


def test_no_question_is_asked_twice(queries):
    assert queries["question"].is_unique
    assert queries["query_id"].is_unique


def test_cells_are_never_overfull_and_halves_balanced(queries):
    n = queries.groupby([*CELL, "half"]).size().unstack(fill_value=0)
    limit = n.index.get_level_values("split").map(PER_CELL).to_numpy()
    assert (n.max(axis=1) <= limit).all()
    uneven = n[n[0] != n[1]]
    # a cell may have no problem of a half in a split, but never some questions too few
    assert (uneven.min(axis=1) == 0).all()
    assert len(uneven) <= 5
    assert queries["half"].tolist() == [half(answer) for answer in queries["reference"]]


def test_wordings_are_drawn_evenly(queries):
    for _, n in queries.groupby("benchmark")["wording"].value_counts().groupby("benchmark"):
        assert n.max() < 1.5 * n.min()


def test_position_is_uniform_and_splits_have_their_shares():
    groups = [f"addition: {a} | {b}" for a in range(100) for b in range(100)]
    places = np.array([position(group) for group in groups])
    assert np.histogram(places, 10, (0, 1))[0] == pytest.approx(1000, abs=120)
    shares = pd.Series([split_of(group) for group in groups]).value_counts(normalize=True)
    assert shares["practice"] == pytest.approx(0.75, abs=0.02)
    for split, asked in PER_CELL.items():
        assert shares[split] == pytest.approx(0.25 * asked / sum(PER_CELL.values()), abs=0.02)
