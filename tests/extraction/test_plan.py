import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prefill_router.extraction.plan import PADDING, make_plan

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=50)


def all_batches(plan):
    return [rows for shard in range(len(plan.shard_ends)) for rows in plan.batches(shard)]


@given(LENGTHS, st.integers(0, 400), st.integers(1, 20))
def test_batches_hold_each_row_once_within_the_budget(lengths, budget, rows_per_shard):
    lengths = np.array(lengths)
    plan = make_plan(lengths, budget, rows_per_shard)
    found = all_batches(plan)
    assert sorted(np.concatenate(found)) == list(range(len(lengths)))

    def fits(rows):
        padded = len(rows) * lengths[rows].max()
        return padded <= budget and padded - lengths[rows].sum() <= PADDING * budget

    for rows in found:
        assert len(rows) == 1 or fits(rows)
        assert len(rows) <= rows_per_shard
    for rows, following in itertools.pairwise(found):
        assert lengths[rows].min() >= lengths[following].max()
        assert len(rows) == rows_per_shard or not fits([*rows, following[0]])


@given(LENGTHS, st.integers(1, 100), st.integers(1, 20))
def test_shards_are_whole_batches(lengths, budget, rows_per_shard):
    plan = make_plan(np.array(lengths), budget, rows_per_shard)
    for shard in range(len(plan.shard_ends)):
        batches = plan.batches(shard)
        np.testing.assert_array_equal(plan.shard(shard), np.concatenate(batches))
        assert sum(map(len, batches[:-1])) < rows_per_shard
        if shard < len(plan.shard_ends) - 1:
            assert len(plan.shard(shard)) >= rows_per_shard


@given(LENGTHS, st.integers(1, 400), st.integers(1, 20), st.integers(1, 40), st.booleans())
def test_no_batch_lies_across_the_switch(lengths, budget, rows_per_shard, switch, as_given):
    lengths = np.array(lengths)
    rows = np.arange(len(lengths)) if as_given else None
    plan = make_plan(lengths, budget, rows_per_shard, switch, rows)
    assert sorted(plan.rows) == list(range(len(lengths)))
    for batch in all_batches(plan):
        assert len(set(lengths[batch] > switch)) == 1


def test_a_plan_of_some_rows_followed_by_another():
    lengths = np.array([4, 2, 4, 2, 4])
    first = make_plan(lengths, 6, 2, rows=np.array([3, 1]))
    plan = first.followed_by(make_plan(lengths, 8, 2, rows=np.array([2, 4, 0])))
    assert [plan.shard(shard).tolist() for shard in range(3)] == [[3, 1], [2, 4], [0]]
    assert [rows.tolist() for rows in all_batches(plan)] == [[3, 1], [2, 4], [0]]
    nothing = make_plan(lengths, 8, 1, rows=np.array([], dtype=np.int64))
    assert len(nothing.shard_ends) == 0
    np.testing.assert_array_equal(nothing.followed_by(first).rows, first.rows)
    np.testing.assert_array_equal(first.followed_by(nothing).shard(0), first.rows)
