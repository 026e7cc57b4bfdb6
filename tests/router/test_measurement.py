import hashlib
from dataclasses import replace

import numpy as np
import pytest
import tiny_routers
from hypothesis import given
from hypothesis import strategies as st

from prefill_router.extraction import extract
from prefill_router.labels.costs import Prices
from prefill_router.labels.splits import make_splits
from prefill_router.recipe import Recipe, fit_recipe
from prefill_router.recipe.heads import HEADS
from prefill_router.router import Router
from prefill_router.router.measurement import digests


def changed(labels, rows):
    """Return labels whose `rows` have other answers, lengths and words, as many as before."""
    correct, tokens, question = labels.correct.copy(), labels.output_tokens.copy(), labels.question
    correct[rows] = 1 - correct[rows]
    tokens[rows] = 7 * tokens[rows] + 100
    question = question.copy()
    question[rows] = [" ".join("w19" for _ in text.split()) for text in question[rows]]
    return replace(labels, correct=correct, output_tokens=tokens, question=question)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_rows_change_only_what_is_made_of_them(fitted, part):
    router, labels = fitted
    prices = Prices(**router.config.prices.model_dump())
    labels = changed(labels, getattr(make_splits(labels)[0], part))
    states = extract(router.encoder, labels.question.tolist())
    other = Router.fit(labels, states, prices=prices, **tiny_routers.SETTINGS)
    mine, theirs = router.tensors, other.tensors
    assert mine.keys() == theirs.keys() and router.config.places == other.config.places
    same = {name for name in mine if mine[name].tobytes() == theirs[name].tobytes()}
    of_training = {n for n in mine if n.startswith(("centre", "projection", "head", "lengths"))}
    assert router.guarantee.best_single == other.guarantee.best_single
    assert router.guarantee.p_values != other.guarantee.p_values
    if part == "validation":
        assert len(of_training) == 13 and of_training <= same < set(mine)
    else:
        assert same == set(mine) and not router.metrics.equals(other.metrics)
        assert (router.config.tau, router.config.lam) == (other.config.tau, other.config.lam)


@pytest.mark.parametrize("head", HEADS)
def test_what_the_book_evaluates_is_what_is_saved(fitted, tmp_path, head):
    """The recipe's probabilities and those of the router that was saved, bit for bit."""
    labels = fitted[1]
    states, split = extract(fitted[0].encoder, labels.question.tolist()), make_splits(labels)[0]
    settings = {"head": head, "dimensions": [2, 6], "n_seeds": 2, "keep": 1}
    made = fit_recipe(Recipe(**settings), labels, states, split)
    p = made.predictor.predict_proba(states)
    router = Router.fit(labels, states, n_resamples=20, **settings)
    router = Router.from_pretrained(router.save_pretrained(tmp_path))
    np.testing.assert_array_equal(router.predict_proba(states), p)
    np.testing.assert_array_equal(router.tensors["validation.p"], made.held)
    seen = router.examine(labels.take(split.test))
    np.testing.assert_allclose(seen.p, p[split.test], atol=1e-5)  # batched by other lengths


TEXTS = st.lists(st.text("ab \n\ud800é", max_size=6), max_size=30)


@given(TEXTS, TEXTS)
def test_questions_are_found_again_but_for_white_space_around_them(known, asked):
    kept = np.unique(digests(known))
    assert kept.dtype == np.uint64 and kept.shape == (len({text.strip() for text in known}),)
    expected = [text.strip() in {other.strip() for other in known} for text in asked]
    assert np.isin(digests(asked), kept).tolist() == expected


def test_a_digest_is_the_head_of_sha256_on_every_machine():
    head = hashlib.sha256(b"What is 1 + 1?").digest()[:8]
    assert digests([" What is 1 + 1?"]).tolist() == [int.from_bytes(head, "little")]
