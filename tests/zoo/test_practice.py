from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from prefill_router.extraction.templates import format_prompts
from prefill_router.zoo import practice as module
from prefill_router.zoo.families import FAMILIES, half
from prefill_router.zoo.practice import (
    IGNORED,
    TOKENS_PER_BATCH,
    Practice,
    batches,
    build_practice,
    practice_queries,
)
from prefill_router.zoo.recipes import OTHER_HALF, RECIPES, TARGETS, practised_half

DEALT, READER, THINKER = RECIPES["gpt2-a"], RECIPES["reader-s"], RECIPES["thinker-e"]


@pytest.fixture(scope="module")
def drawn():
    return {name: list(practice_queries(RECIPES[name], 3000)) for name in (*TARGETS, "reader-s")}


@pytest.fixture(scope="module")
def practice(tokenizer):
    return build_practice(DEALT, tokenizer, 3000)


def test_no_problem_or_question_of_the_benchmark_is_practised(drawn, queries):
    groups, texts = set(queries["group"]), set(queries["question"])
    for practised in drawn.values():
        assert not groups & {query.group for query in practised}
        assert not texts & {query.question for query in practised}


def test_an_unguarded_draw_would_meet_the_benchmark(queries, monkeypatch):
    """So that the test above can fail."""
    monkeypatch.setattr(module, "split_of", lambda group: "practice")
    groups = set(queries["group"])
    assert sum(query.group in groups for query in practice_queries(READER, 500)) > 25


@pytest.mark.parametrize("name", TARGETS)
def test_targets_mostly_practise_their_half_of_every_family(drawn, name):
    kept = {}
    for query in drawn[name]:
        mine = practised_half(query.family, RECIPES[name].deal)
        kept.setdefault(query.family, []).append(half(query.reference) == mine)
    assert set(kept) == set(FAMILIES) and all(np.mean(of) > 0.8 for of in kept.values())
    assert np.mean(np.concatenate([*kept.values()])) == pytest.approx(
        1 / (1 + OTHER_HALF), abs=0.02
    )


def test_readers_practise_both_halves_of_every_family_and_level(drawn):
    cells = {}
    for query in drawn["reader-s"]:
        cells.setdefault((query.family, query.level), []).append(half(query.reference))
    assert len(cells) == len(FAMILIES) * 5
    for halves in cells.values():
        assert 0.2 < np.mean(halves) < 0.8


def test_seeds_draw_other_questions_and_the_same_seed_the_same():
    one, again = (list(practice_queries(READER, 300)) for _ in range(2))
    other = list(practice_queries(replace(READER, seed=READER.seed + 1), 300))
    assert one == again
    assert len({q.question for q in one} & {q.question for q in other}) < 60


@pytest.mark.parametrize("recipe", [DEALT, THINKER], ids=lambda recipe: recipe.name)
def test_sequences_are_prompt_then_answer_then_end(recipe, tokenizer):
    practice = build_practice(recipe, tokenizer, 200)
    for query, tokens, n in zip(
        practice_queries(recipe, 200), practice.tokens, practice.prompt_lengths, strict=True
    ):
        prompt = format_prompts(tokenizer, [query.question])
        assert tokenizer(prompt)["input_ids"] == [tokens[:n].tolist()]
        said = f"{query.working} answer : {query.reference}" if recipe.thinks else query.reference
        assert tokenizer(f"{said} <eos>")["input_ids"] == tokens[n:].tolist()


def epoch(practice, seed):
    """The batches of one pass, and the first of the next."""
    n, seen, found = len(practice.tokens), 0, []
    stream = batches(practice, seed)
    while seen < n:
        found.append(next(stream))
        seen += len(found[-1][0])
    assert seen == n
    return found, next(stream)


def test_an_epoch_has_every_example_once_with_loss_on_its_answer_alone(practice):
    found, _ = epoch(practice, 3)
    rows = []
    for batch in found:
        for tokens, labels in zip(*batch, strict=True):
            end = np.flatnonzero(labels != IGNORED)[-1] + 1
            assert (tokens[end:] == 0).all() and (labels[end:] == IGNORED).all()
            rows.append((tokens[:end].tolist(), labels[:end].tolist()))
    examples = zip(practice.tokens, practice.prompt_lengths, strict=True)
    assert sorted(rows) == sorted((t.tolist(), [IGNORED] * n + t[n:].tolist()) for t, n in examples)


def test_batches_are_within_the_token_budget_and_little_padded(practice):
    found, _ = epoch(practice, 3)
    lengths = np.array([len(tokens) for tokens in practice.tokens])
    sizes = np.array([tokens.size for tokens, _ in found])
    assert sizes.sum() < 1.1 * lengths.sum()
    assert sizes.max() < 1.1 * (TOKENS_PER_BATCH + lengths.max())
    assert np.median(sizes) > TOKENS_PER_BATCH - lengths.max()


def test_epochs_and_seeds_have_orders_of_their_own(practice):
    (first, *_), next_epoch = epoch(practice, 3)
    (again, *_), _ = epoch(practice, 3)
    (other, *_), _ = epoch(practice, 4)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], next_epoch[0])
    assert not np.array_equal(first[0], other[0])


def test_a_single_long_example_is_a_batch():
    one = Practice([np.arange(1, TOKENS_PER_BATCH * 2)], np.array([5]))
    for tokens, labels in islice(batches(one, 0), 3):
        assert tokens.shape == labels.shape == (1, TOKENS_PER_BATCH * 2 - 1)
