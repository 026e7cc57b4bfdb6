import hashlib
from dataclasses import replace

import numpy as np
import pytest
import tiny_routers
import tiny_studies
from hypothesis import given
from hypothesis import strategies as st

from prefill_router import recipe
from prefill_router.extraction import extract
from prefill_router.labels import load_labels
from prefill_router.labels.costs import load_prices
from prefill_router.labels.splits import make_splits
from prefill_router.router import Router, measurement
from prefill_router.router.measurement import digests
from prefill_router.trunk import SharedTrunkEnsemble


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = tiny_studies.world(tmp_path_factory.mktemp("world"))
    return load_labels(world["labels"]), load_prices(world["prices"]), world["encoder"]


def fitted(world, labels):
    _, prices, encoder = world
    states = extract(encoder, labels.question.tolist())
    return Router.fit(labels, states, prices=prices, **tiny_routers.SETTINGS)


def changed(labels, rows):
    """Return labels whose `rows` have other answers, lengths and words, as many as before."""
    correct, tokens, question = labels.correct.copy(), labels.output_tokens.copy(), labels.question
    correct[rows] = 1 - correct[rows]
    tokens[rows] = 7 * tokens[rows] + 100
    question = question.copy()
    question[rows] = [" ".join("w19" for _ in text.split()) for text in question[rows]]
    return replace(labels, correct=correct, output_tokens=tokens, question=question)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_rows_change_only_what_is_made_of_them(world, part):
    labels, *_ = world
    rows = getattr(make_splits(labels)[0], part)
    router, other = fitted(world, labels), fitted(world, changed(labels, rows))
    mine, theirs = router.tensors, other.tensors
    assert mine.keys() == theirs.keys() and router.config.places == other.config.places
    same = {name for name in mine if mine[name].tobytes() == theirs[name].tobytes()}
    of_training = {n for n in mine if n.startswith(("centre", "projection", "head", "lengths"))}
    assert router.guarantee.best_single == other.guarantee.best_single
    if part == "validation":
        assert len(of_training) == 13 and of_training <= same < set(mine)
    else:
        assert same == set(mine) and not router.metrics.equals(other.metrics)
        assert (router.config.tau, router.config.lam) == (other.config.tau, other.config.lam)


def test_each_part_is_fitted_to_its_own_rows_and_whole_groups(world, monkeypatch):
    labels, *_ = world
    split, seen = make_splits(labels)[0], {}

    def spy(place, name, look):
        original = getattr(place, name)

        def call(*given, **settings):
            seen[name] = look(given)
            return original(*given, **settings)

        monkeypatch.setattr(place, name, call)

    spy(SharedTrunkEnsemble, "fit", lambda given: given[2:4])
    spy(recipe, "fit_calibration", lambda given: given[1:3])
    spy(measurement, "certify", lambda given: (given[0].correct, given[0].groups))
    fitted(world, labels)
    parts = {"fit": split.train, "fit_calibration": split.validation, "certify": split.test}
    for name, rows in parts.items():
        np.testing.assert_array_equal(seen[name][0], labels.correct[rows])
        np.testing.assert_array_equal(seen[name][1], labels.group[rows])


@pytest.mark.parametrize("head", ["trunk", "logistic", "ridge"])
def test_what_the_book_evaluates_is_what_is_saved(world, tmp_path, head):
    """The recipe's probabilities and those of the router that was saved, bit for bit."""
    labels, prices, encoder = world
    states, split = extract(encoder, labels.question.tolist()), make_splits(labels)[0]
    settings = {"head": head, "dimensions": [2, 6], "n_seeds": 2, "keep": 1}
    fitted = recipe.fit_recipe(recipe.Recipe(**settings), labels, states, split)
    router = Router.fit(labels, states, prices=prices, n_resamples=20, **settings)
    router = Router.from_pretrained(router.save_pretrained(tmp_path))
    p = fitted.predictor.predict_proba(states)
    np.testing.assert_array_equal(router.predict_proba(states), p)
    test = labels.take(split.test)
    seen = router.examine(test)
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
