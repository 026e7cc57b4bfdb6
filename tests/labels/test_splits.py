from dataclasses import replace

import numpy as np
import pytest
import random_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router.errors import InputError
from prefill_router.labels.splits import make_splits


def labels_of(group, benchmark, split=None):
    split = None if split is None else np.asarray(split)
    fields = {"benchmark": np.asarray(benchmark), "group": np.asarray(group, np.int64)}
    return random_labels.labels_of(len(group), split=split, **fields)


def parts(split):
    return split.train, split.validation, split.test


groups = st.lists(st.integers(0, 40), min_size=60, max_size=150)


@settings(max_examples=60, deadline=None)
@given(group=groups, outer_folds=st.integers(1, 5), seed=st.integers(0, 9))
def test_parts_cover_everything_once_and_keep_groups_whole(group, outer_folds, seed):
    labels = labels_of(group, np.array(group) % 3)
    try:
        splits = make_splits(labels, outer_folds, seed=seed)
    except InputError as error:
        assert "part would be empty" in str(error)
        # Two neighbours on the line are no further apart than the largest group is long.
        assert np.bincount(group).max() >= 0.15 * len(group)
        return
    assert len(splits) == outer_folds
    for split in splits:
        for part in parts(split):
            assert part.dtype == np.int64 and len(part) and (np.diff(part) > 0).all()
        assert sorted(np.concatenate(parts(split))) == list(range(len(group)))
        sides = [set(labels.group[part]) for part in parts(split)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    if outer_folds > 1:
        assert len({tuple(split.validation) for split in splits}) == outer_folds
        assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(group)))


def test_shares_of_rows_and_of_benchmarks():
    benchmark = np.repeat(["a", "b", "c"], [500, 400, 100])
    labels = labels_of(np.arange(1000), benchmark)
    (split,), folds = make_splits(labels), make_splits(labels, outer_folds=5)
    assert [len(part) for part in parts(split)] == [600, 150, 250]
    for one in folds:
        assert len(one.test) == 200
        assert abs(len(one.validation) - 150) <= 1
    for one, shares in [(split, (0.6, 0.15, 0.25)), *((f, (0.65, 0.15, 0.2)) for f in folds)]:
        for part, share in zip(parts(one), shares, strict=True):
            for name in "abc":
                size = (benchmark == name).sum()
                assert abs((benchmark[part] == name).sum() - share * size) <= 3


SPLIT = ["test", "train", "validation", "train", "train", "test"]


def test_the_tables_own_split_is_taken():
    labels = labels_of([0, 1, 2, 3, 3, 0], np.zeros(6), SPLIT)
    (split,) = make_splits(labels, seed=5)
    assert [part.tolist() for part in parts(split)] == [[1, 3, 4], [2], [0, 5]]


def test_folds_are_decided_by_the_seed_and_not_by_the_tables_own_split():
    own = labels_of(np.arange(30), np.zeros(30), np.resize(SPLIT, 30))

    def tests(labels, seed):
        return [split.test.tolist() for split in make_splits(labels, 3, seed=seed)]

    assert tests(own, 0) == tests(replace(own, split=None), 0) != tests(own, 1)


@pytest.mark.parametrize(
    ("group", "split", "message"),
    [
        ([0, 1, 2, 3, 4, 3], SPLIT, r"'q3' \(train\) and 'q5' \(test\).*same text or group"),
        (range(6), ["train"] * 5 + ["test"], "validation part would be empty: the column 'split'"),
    ],
)
def test_the_tables_own_split_must_be_whole(group, split, message):
    with pytest.raises(InputError, match=message):
        make_splits(labels_of(group, np.zeros(6), split))


def test_there_is_one_split_at_least():
    with pytest.raises(InputError, match="outer_folds is 0"):
        make_splits(labels_of(range(100), np.zeros(100)), 0)


@pytest.mark.parametrize("folds", [1, 5])
def test_too_few_groups(folds):
    with pytest.raises(InputError, match="part would be empty: 100 queries in 2 groups"):
        make_splits(labels_of(np.arange(100) % 2, np.zeros(100)), outer_folds=folds)
