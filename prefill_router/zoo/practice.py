"""What a zoo model practises: questions that are never the benchmark's, tokenised and bucketed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefill_router.progress import track
from prefill_router.zoo.families import FAMILIES, LEVELS
from prefill_router.zoo.recipes import OTHER_HALF, Recipe, practised_half
from prefill_router.zoo.skills import Query, draw, split_of

POOL = 250_000
TOKENS_PER_BATCH = 2048
IGNORED = -100


@dataclass(frozen=True)
class Practice:
    """Tokenised practice.

    Attributes
    ----------
    tokens : list of ndarray of int64
        Prompt, answer (with the working, if the model thinks) and end token.
    prompt_lengths : ndarray, shape (n,)
        How many of the tokens are the prompt's, on which there is no loss.
    """

    tokens: list[np.ndarray]
    prompt_lengths: np.ndarray


def practice_queries(recipe: Recipe, n: int) -> Iterator[Query]:
    """Draw `n` questions for a model to practise, none of a problem that the benchmark may ask."""
    rng = Random(recipe.seed)
    names = list(FAMILIES)
    for _ in range(n):
        family = rng.choice(names)
        if recipe.deal is None:
            half = rng.randrange(2)
        else:
            strayed = rng.random() < OTHER_HALF / (1 + OTHER_HALF)
            half = practised_half(family, recipe.deal) ^ int(strayed)
        level = rng.choice(LEVELS)
        query = draw(family, level, half, rng)
        while split_of(query.group) != "practice":
            query = draw(family, level, half, rng)
        yield query


def answer_text(recipe: Recipe, query: Query) -> str:
    """Return what the model should say: the answer, after the working if it thinks."""
    return f"{query.working} answer : {query.reference}" if recipe.thinks else query.reference


def build_practice(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, n: int = POOL) -> Practice:
    """Draw and tokenise a model's practice questions."""
    queries = list(track(practice_queries(recipe, n), f"{recipe.name}: questions", total=n))
    prompts = [f"<user> {query.question} <assistant>" for query in queries]
    answers = [f"{answer_text(recipe, query)} <eos>" for query in queries]
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer(answers, add_special_tokens=False)["input_ids"]
    tokens = [np.array(head + tail) for head, tail in zip(heads, tails, strict=True)]
    return Practice(tokens, np.array([len(head) for head in heads]))


def batches(practice: Practice, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches without end: token ids and labels, right-padded, of similar lengths.

    Yields
    ------
    tokens, labels : ndarray of int64, shape (batch, time)
        Labels are the tokens of the answer and `IGNORED` elsewhere. Sizes vary, so that each batch
        holds about `TOKENS_PER_BATCH` tokens.
    """
    rng = np.random.default_rng(seed)
    lengths = np.array([len(tokens) for tokens in practice.tokens])
    while True:
        order = np.lexsort((rng.random(len(lengths)), lengths))
        bounds = np.searchsorted(
            np.cumsum(lengths[order]), np.arange(0, lengths.sum(), TOKENS_PER_BATCH)
        )
        parts = [part for part in np.split(order, bounds[1:]) if len(part)]
        for i in rng.permutation(len(parts)):
            rows = parts[i]
            tokens = np.zeros((len(rows), lengths[rows].max()), dtype=np.int64)
            labels = np.full_like(tokens, IGNORED)
            for row, index in enumerate(rows):
                sequence, start = practice.tokens[index], practice.prompt_lengths[index]
                tokens[row, : len(sequence)] = sequence
                labels[row, start : len(sequence)] = sequence[start:]
            yield tokens, labels
