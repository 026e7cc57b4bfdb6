"""What the embedded world must be like; measured on validation, as the world was tuned there."""

import numpy as np
import pandas as pd
import pytest

from prefill_router import zoo
from prefill_router.labels import load_labels
from prefill_router.zoo.families import FEW_ANSWERS

THINKER = "zoo/thinker-e"


@pytest.fixture(scope="module")
def validation():
    labels = load_labels(zoo.LABELS)
    return labels.take(labels.split == "validation")


def headroom(correct):
    return correct.max(axis=1).mean() - correct.mean(axis=0).max()


def test_no_target_is_best_by_far_and_each_alone_is_right_somewhere(validation):
    accuracy = validation.correct.mean(axis=0)
    assert 0.40 <= accuracy.max() <= 0.75
    assert (accuracy >= accuracy.max() - 0.08).sum() >= 1 + 3  # the best and three more
    alone = validation.correct[validation.correct.sum(axis=1) == 1]
    assert (alone.sum(axis=0) / validation.n_queries >= 0.01).all()


def test_headroom_is_large_also_without_lucky_guesses(validation):
    many = ~np.isin(validation.benchmark, FEW_ANSWERS)
    assert headroom(validation.correct) >= 0.15
    assert headroom(validation.correct[many]) >= 0.10


def test_thinker_says_more_and_is_on_some_families_more_often_right(validation):
    k = validation.targets.index(THINKER)
    others = [i for i in range(len(validation.targets)) if i != k]
    tokens = validation.output_tokens.mean(axis=0)
    assert tokens[k] > 3 * tokens[others].max()
    right = pd.DataFrame(validation.correct).groupby(validation.benchmark).mean()
    assert (right[k] > right[others].max(axis=1)).sum() >= 2


def test_what_is_easily_seen_closes_little_of_the_gap_and_what_must_be_computed_half(queries):
    """Routers are told a cell, and ask its best target by the training rows."""
    labels = load_labels(zoo.LABELS)
    questions = queries.set_index("query_id").loc[labels.query_id]
    train, validation = labels.split == "train", labels.split == "validation"
    right = labels.correct[validation]
    best = right[:, labels.correct[train].mean(axis=0).argmax()].mean()
    for columns, low, high in (
        (["benchmark"], -1, 0.25),
        (["benchmark", "level"], -1, 0.25),
        (["benchmark", "half"], 0.50, 1),
        (["benchmark", "half", "level"], 0.50, 1),
    ):
        cell = questions.groupby(columns).ngroup().to_numpy()
        accuracy = pd.DataFrame(labels.correct[train]).groupby(cell[train]).mean()
        choice = accuracy.loc[cell[validation]].to_numpy().argmax(axis=1)
        routed = right[np.arange(len(right)), choice].mean()
        assert low <= (routed - best) / (right.max(axis=1).mean() - best) <= high
