import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prefill_router.extraction.batches import PADDING, group_batches, plan_batches

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=50)


@given(LENGTHS, st.integers(0, 400), st.integers(1, 20))
def test_batches_hold_each_row_once_within_the_budget(lengths, budget, most):
    lengths = np.array(lengths)
    found = plan_batches(lengths, budget, most)
    assert sorted(np.concatenate(found)) == list(range(len(lengths)))

    def fits(rows):
        padded = len(rows) * lengths[rows].max()
        return padded <= budget and padded - lengths[rows].sum() <= PADDING * budget

    for rows in found:
        assert len(rows) == 1 or fits(rows)
        assert len(rows) <= most
    for rows, following in itertools.pairwise(found):
        assert lengths[rows].min() >= lengths[following].max()
        assert len(rows) == most or not fits([*rows, following[0]])


@given(LENGTHS, st.integers(1, 100), st.integers(1, 20))
def test_shards_are_whole_batches_and_what_is_left_is_planned_alike(lengths, budget, n_rows):
    """So that a run that goes on after some shards writes the bytes that it would have written."""
    lengths = np.array(lengths)
    batches = plan_batches(lengths, budget, n_rows)
    shards = group_batches(batches, n_rows)
    assert [rows.tolist() for shard in shards for rows in shard] == [b.tolist() for b in batches]
    for shard in shards:
        assert sum(map(len, shard[:-1])) < n_rows
        assert shard is shards[-1] or sum(map(len, shard)) >= n_rows
    left = np.sort(np.concatenate([*itertools.chain(*shards[1:]), np.empty(0, np.int64)]))
    again = [left[rows].tolist() for rows in plan_batches(lengths[left], budget, n_rows)]
    assert again == [rows.tolist() for shard in shards[1:] for rows in shard]


@given(LENGTHS, st.integers(1, 400), st.integers(1, 40))
def test_no_batch_lies_across_the_switch(lengths, budget, switch):
    lengths = np.array(lengths)
    for batch in plan_batches(lengths, budget, switch=switch):
        assert len(set(lengths[batch] > switch)) == 1
