"""What the embedded world must be like; measured on validation, as the world was tuned there."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prefill_router import zoo
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import ZOO, resolve, weights_hash
from prefill_router.labels import load_labels
from prefill_router.storage import file_hash, read_json
from prefill_router.zoo.families import FEW_ANSWERS
from prefill_router.zoo.recipes import TARGETS
from prefill_router.zoo.world import world_report

BLIND = ("family", "family and level", "words (TF-IDF)", "length")
TOLD = ("true cut (family and half)", "true cut and level")
THINKER = "zoo/thinker-e"


@pytest.fixture(scope="module")
def labels():
    table = load_labels(zoo.LABELS)
    return table.take(table.split != "test")


@pytest.fixture(scope="module")
def report(labels, queries):
    return world_report(labels, queries)


@pytest.fixture(scope="module")
def validation(labels):
    return labels.take(labels.split == "validation")


def headroom(correct):
    return correct.max(axis=1).mean() - correct.mean(axis=0).max()


def test_labels_are_of_the_committed_questions_and_weights(queries):
    table = pd.read_parquet(zoo.LABELS)
    columns = ["query_id", "question", "benchmark", "group", "split"]
    for name in TARGETS:
        rows = table[table["model"] == f"zoo/{name}"].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[columns], queries[columns], check_dtype=False)
    manifest = read_json(zoo.LABELS.with_suffix(".manifest.json"))
    assert manifest["labels"] == file_hash(zoo.LABELS)
    assert manifest["weights"] == {
        f"zoo/{name}": weights_hash(resolve(f"zoo/{name}")) for name in TARGETS
    }


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


@pytest.mark.parametrize("router", BLIND)
def test_what_is_easily_seen_closes_little_of_the_gap(report, router):
    assert report["gap_closed"][router] <= 0.25


@pytest.mark.parametrize("router", TOLD)
def test_what_must_be_computed_closes_half_of_the_gap(report, router):
    assert report["gap_closed"][router] >= 0.50


def test_report_is_that_of_a_count_by_hand(report, labels, queries):
    """The router that is told the true cut, by a loop over cells."""
    half = queries.set_index("query_id").loc[labels.query_id, "half"].to_numpy()
    cell = [f"{family} {h}" for family, h in zip(labels.benchmark, half, strict=True)]
    table = pd.DataFrame(labels.correct).assign(cell=cell, split=labels.split)
    train, validation = (table[table["split"] == s] for s in ("train", "validation"))
    chosen = train.groupby("cell")[list(range(len(TARGETS)))].mean().idxmax(axis=1)
    right = [row[chosen[row["cell"]]] for _, row in validation.iterrows()]
    targets = list(range(len(TARGETS)))
    best = validation[train[targets].mean().idxmax()].mean()
    oracle = validation[targets].max(axis=1).mean()
    told = report.loc["true cut (family and half)"]
    assert told["accuracy"] == pytest.approx(np.mean(right))
    assert told["gap_closed"] == pytest.approx((np.mean(right) - best) / (oracle - best))
    assert report["gap_closed"][["best single target", "oracle"]].tolist() == [0, 1]


def test_report_never_looks_at_test_questions(queries):
    table = load_labels(zoo.LABELS)
    keep = np.flatnonzero(np.arange(table.n_queries) % 10 == 0)
    some = table.take(keep)
    other = np.where(some.split[:, None] == "test", 1 - some.correct, some.correct)
    pd.testing.assert_frame_equal(
        world_report(some, queries), world_report(replace(some, correct=other), queries)
    )


def test_report_needs_splits_and_known_questions(validation, queries):
    with pytest.raises(InputError, match="split"):
        world_report(replace(validation, split=None), queries)
    with pytest.raises(InputError, match="not in the benchmark"):
        world_report(validation, queries.head(10))


def test_zoo_is_small_and_of_three_architectures():
    files = ZOO.glob("*/*")
    assert sum(path.stat().st_size for path in files) <= 24e6
    kinds = {load_target(resolve(f"zoo/{name}"))[0].config.model_type for name in TARGETS}
    assert len(kinds) >= 3
