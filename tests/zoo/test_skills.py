from dataclasses import replace

import pandas as pd
import pytest
from solver import read_number, slots_of, solve, without_aside

from prefill_router.zoo import skills
from prefill_router.zoo.families import FAMILIES, LEVELS, half
from prefill_router.zoo.recipes import OTHER_HALF, RECIPES, TARGETS, practised_half
from prefill_router.zoo.skills import PER_CELL, benchmark, practice_queries, split_of

CELL = ["split", "benchmark", "level"]
READER = RECIPES["reader-s"]


def test_every_answer_follows_from_the_text_alone(queries):
    for row in queries.itertuples():
        assert row.question == row.question.lower() == " ".join(row.question.split())
        slots = slots_of(row.benchmark, row.wording, without_aside(row.question))
        assert solve(row.benchmark, slots) == row.reference, row.question


def test_another_seed_builds_another_benchmark_with_the_same_splits():
    one, two = (benchmark(seed=seed, attempts=40) for seed in (1, 2))
    assert len(set(one["question"]) & set(two["question"])) < len(one) / 2
    together = pd.concat([one, two]).groupby("group")["split"].nunique()
    assert together.max() == 1


def test_no_question_is_asked_twice_and_no_problem_straddles_splits(queries):
    """As told by its group, and by the text itself, with numbers spelled out or not."""
    assert queries["question"].is_unique and queries["query_id"].is_unique
    assert queries["split"].tolist() == [split_of(group) for group in queries["group"]]
    seen = {}
    for row in queries.itertuples():
        slots = slots_of(row.benchmark, row.wording, without_aside(row.question))
        read = read_number if row.benchmark in ("addition", "remainder") else str
        operands = tuple(read(slots[name]) for name in sorted(slots))
        assert seen.setdefault((row.benchmark, operands), row.split) == row.split


def test_cells_are_many_never_overfull_and_halves_balanced(queries):
    sizes = queries["split"].value_counts()
    assert sizes["train"] >= 9000 and 1900 <= sizes["validation"] <= 2100 and sizes["test"] >= 3000
    cells = queries.groupby(CELL).size().groupby("split").size()
    assert cells["train"] == len(FAMILIES) * len(LEVELS) >= 12 * 5
    # the shortest rows of bits and of brackets have too few problems to be in all splits
    assert (cells >= cells["train"] - 2).all()
    n = queries.groupby([*CELL, "half"]).size().unstack(fill_value=0)
    limit = n.index.get_level_values("split").map(PER_CELL).to_numpy()
    assert (n.max(axis=1) <= limit).all()
    uneven = n[n[0] != n[1]]
    # a cell may have no problem of a half in a split, but never some questions too few
    assert (uneven.min(axis=1) == 0).all() and len(uneven) <= 5
    assert queries["half"].tolist() == [half(answer) for answer in queries["reference"]]


def test_splits_have_their_shares():
    groups = [f"addition: {a} | {b}" for a in range(100) for b in range(100)]
    shares = pd.Series([split_of(group) for group in groups]).value_counts(normalize=True)
    assert shares["practice"] == pytest.approx(0.75, abs=0.02)
    for split, asked in PER_CELL.items():
        assert shares[split] == pytest.approx(0.25 * asked / sum(PER_CELL.values()), abs=0.02)


# -- practice ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    return {name: list(practice_queries(RECIPES[name], 3000)) for name in (*TARGETS, "reader-s")}


def test_no_problem_or_question_of_the_benchmark_is_practised(drawn, queries):
    groups, texts = set(queries["group"]), set(queries["question"])
    for practised in drawn.values():
        assert not groups & {query.group for query in practised}
        assert not texts & {query.question for query in practised}


def test_an_unguarded_draw_would_meet_the_benchmark(queries, monkeypatch):
    """So that the test above can fail."""
    monkeypatch.setattr(skills, "split_of", lambda group: "practice")
    groups = set(queries["group"])
    assert sum(query.group in groups for query in practice_queries(READER, 500)) > 25


def test_targets_mostly_practise_their_half_and_readers_both_of_every_family_and_level(drawn):
    for name, practised in drawn.items():
        table = pd.DataFrame(map(vars, practised))
        assert table["half"].tolist() == [half(answer) for answer in table["reference"]]
        halves, deal = table.groupby(["family", "level"])["half"].mean(), RECIPES[name].deal
        assert len(halves) == len(FAMILIES) * len(LEVELS)
        if deal is None:
            assert halves.between(0.2, 0.8).all()
            continue
        kept = table["half"] == [practised_half(family, deal) for family in table["family"]]
        assert (kept.groupby(table["family"]).mean() > 0.8).all()
        assert kept.mean() == pytest.approx(1 / (1 + OTHER_HALF), abs=0.02)


def test_seeds_draw_other_questions_and_the_same_seed_the_same():
    readers = READER, READER, replace(READER, seed=READER.seed + 1)
    one, again, other = (list(practice_queries(reader, 300)) for reader in readers)
    assert one == again
    assert len({q.question for q in one} & {q.question for q in other}) < 60
