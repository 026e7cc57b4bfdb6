"""The queries labelled for every target, which alone routing can be evaluated on."""

from __future__ import annotations

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError


def complete_rows(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are complete, (N,) bool, and their labels."""
    correct = np.asarray(correct, dtype=np.float64)
    rows = ~np.isnan(correct).any(axis=1)
    if not rows.any():
        raise InputError(
            "No query is labelled for every target, so that routing cannot be evaluated: ask all "
            "targets some of the same queries, or name fewer of them (targets=A,B...)."
        )
    return rows, correct[rows]


def costs_of_rows(cost: np.ndarray, rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the costs of the complete rows, (n, K), checked."""
    cost = np.asarray(cost, dtype=np.float64)
    return policy.aligned(np.zeros(shape), cost[rows] if cost.ndim == 2 else cost)[1]


def groups_of_rows(groups: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Return the groups of the complete rows, (n,); None where each query is by itself."""
    return None if groups is None else np.asarray(groups)[rows]
