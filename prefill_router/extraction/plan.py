"""Who is read with whom: a fixed plan of batches, and of the shards that their states go to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PADDING = 1 / 16  # of the budget: about what one more batch costs by itself, in tokens


@dataclass(frozen=True)
class Plan:
    """Batches of prompts of similar length, in the order in which they are read.

    Attributes
    ----------
    rows : int64 ndarray of shape (N,)
        Every query once, in reading order.
    batch_ends : int64 ndarray of shape (n_batches,)
        Where in `rows` each batch ends.
    shard_ends : int64 ndarray of shape (n_shards,)
        The number of the first batch after each shard.
    """

    rows: np.ndarray
    batch_ends: np.ndarray
    shard_ends: np.ndarray

    def batches(self, shard: int) -> list[np.ndarray]:
        """Return the rows of each batch of a shard."""
        first = self.shard_ends[shard - 1] if shard else 0
        start = self.batch_ends[first - 1] if first else 0
        ends = self.batch_ends[first : self.shard_ends[shard]]
        return np.split(self.rows[start : ends[-1]], ends[:-1] - start)

    def shard(self, shard: int) -> np.ndarray:
        """Return the rows of a shard, in its order."""
        start = self.batch_ends[self.shard_ends[shard - 1] - 1] if shard else 0
        return self.rows[start : self.batch_ends[self.shard_ends[shard] - 1]]

    def followed_by(self, other: Plan) -> Plan:
        """Return a plan that reads this one's rows, then the other's; no shard holds of both."""
        return Plan(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.batch_ends, len(self.rows) + other.batch_ends]),
            np.concatenate([self.shard_ends, len(self.batch_ends) + other.shard_ends]),
        )


def make_plan(
    lengths: np.ndarray,
    token_budget: int,
    rows_per_shard: int,
    switch: float = math.inf,
    rows: np.ndarray | None = None,
) -> Plan:
    """Plan batches within a token budget, and shards of whole batches.

    Parameters
    ----------
    lengths : int64 ndarray of shape (N,)
        Tokens of each prompt.
    token_budget : int
        The most tokens of a batch, padding included. A longer prompt gets a batch of its own. A
        batch also ends where the next prompt would bring its padding above `PADDING` of the budget:
        from there on another batch costs less than the padding.
    rows_per_shard : int
        A shard ends with the batch that brings it to as many rows; no batch has more, so that
        what is held of short prompts is bounded too.
    switch : float, default infinity
        No batch holds prompts of more tokens and others: `rope_switch`.
    rows : int64 ndarray, optional
        Which queries, in reading order. By default all, the longest first: prompts of like length
        share a batch, and what does not fit into memory fails at once.

    Returns
    -------
    Plan
    """
    if rows is None:
        rows = np.argsort(-lengths, kind="stable")
    batch_ends, shard_ends, widest, total, start, in_shard = [], [], 0, 0, 0, 0
    for position, row in enumerate(rows):
        length, n = int(lengths[row]), position - start
        widest, total = max(widest, length), total + length
        padded = widest * (n + 1)
        is_full = padded > token_budget or padded - total > PADDING * token_budget
        is_other = (length > switch) != (int(lengths[rows[start]]) > switch)
        if n and (is_full or is_other or n >= rows_per_shard):
            batch_ends.append(position)
            in_shard += n
            if in_shard >= rows_per_shard:
                shard_ends.append(len(batch_ends))
                in_shard = 0
            start, widest, total = position, length, length
    if len(rows):
        batch_ends.append(len(rows))
        shard_ends.append(len(batch_ends))
    return Plan(*(np.array(a, dtype=np.int64) for a in (rows, batch_ends, shard_ends)))


def rope_switch(config) -> float:
    """Return the longest prompt that a model's text config gives short-context positions.

    LongRoPE turns every prompt of a batch by the factors of its longest, so that prompts on both
    sides must not share a batch. Infinite for a model without it.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    return next(
        (
            kind["original_max_position_embeddings"]
            for kind in kinds
            if kind.get("rope_type") == "longrope"
        ),
        math.inf,
    )
