"""What the embedded world must be like; measured on validation, as the world was tuned there."""

import numpy as np
import pandas as pd
import pytest

from prefill_router import zoo
from prefill_router.baselines.classifiers import LengthOnly, TfidfLogistic
from prefill_router.labels import load_labels
from prefill_router.zoo.families import FEW_ANSWERS

THINKER = "zoo/thinker-e"


@pytest.fixture(scope="module")
def labels():
    table = load_labels(zoo.LABELS)
    return table.take(table.split != "test")


@pytest.fixture(scope="module")
def validation(labels):
    return labels.take(labels.split == "validation")


def headroom(correct):
    return correct.max(axis=1).mean() - correct.mean(axis=0).max()


def test_best_target_is_neither_poor_nor_perfect_and_not_alone_at_the_top(validation):
    accuracy = validation.correct.mean(axis=0)
    assert 0.40 <= accuracy.max() <= 0.75
    assert (accuracy >= accuracy.max() - 0.08).sum() >= 1 + 3  # the best and three more


def test_headroom_is_large_also_without_lucky_guesses(validation):
    assert headroom(validation.correct) >= 0.15
    many = ~np.isin(validation.benchmark, FEW_ANSWERS)
    assert headroom(validation.correct[many]) >= 0.10


def test_every_target_alone_is_right_somewhere(validation):
    alone = validation.correct[validation.correct.sum(axis=1) == 1]
    assert (alone.sum(axis=0) / validation.n_queries >= 0.01).all()


def test_thinker_says_more_and_is_on_some_families_more_often_right(validation):
    k = validation.targets.index(THINKER)
    others = [i for i in range(len(validation.targets)) if i != k]
    tokens = validation.output_tokens.mean(axis=0)
    assert tokens[k] > 3 * tokens[others].max()
    right = pd.DataFrame(validation.correct).groupby(validation.benchmark).mean()
    assert (right[k] > right[others].max(axis=1)).sum() >= 2


def gap_closed(labels, choose):
    """The share of the headroom that choices on validation rows recover.

    `choose` returns the best target, by training rows, of each validation row.
    """
    train, validation = labels.split == "train", labels.split == "validation"
    right = labels.correct[validation]
    best = right[:, labels.correct[train].mean(axis=0).argmax()].mean()
    routed = right[np.arange(len(right)), choose(train, validation)].mean()
    return (routed - best) / (right.max(axis=1).mean() - best)


def test_what_is_easily_seen_closes_little_of_the_gap_and_what_must_be_computed_half(
    labels, queries
):
    questions = queries.set_index("query_id").loc[labels.query_id]

    def closed_by_told(*columns):
        cell = questions.groupby([*columns]).ngroup().to_numpy()

        def choose(train, validation):
            accuracy = pd.DataFrame(labels.correct[train]).groupby(cell[train]).mean()
            return accuracy.loc[cell[validation]].to_numpy().argmax(axis=1)

        return gap_closed(labels, choose)

    assert closed_by_told("benchmark") <= 0.25
    assert closed_by_told("benchmark", "level") <= 0.25
    assert closed_by_told("benchmark", "half") >= 0.50
    assert closed_by_told("benchmark", "half", "level") >= 0.50


def test_words_and_length_close_little_of_the_gap(labels):
    texts = labels.question
    lengths = np.array([[len(text), len(text.split())] for text in texts])
    for router, known in ((TfidfLogistic(), texts), (LengthOnly(), lengths)):

        def choose(train, validation, router=router, known=known):
            router.fit(known[train], labels.correct[train])
            return router.predict_proba(known[validation]).argmax(axis=1)

        assert gap_closed(labels, choose) <= 0.25
