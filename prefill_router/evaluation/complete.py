"""The queries labelled for every target: the only ones on which routing can be evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError


@dataclass(frozen=True)
class Complete:
    """Labels, costs and groups of the n queries, of N, that are labelled for every target.

    Attributes
    ----------
    rows : (N,) bool array
        Which queries they are.
    correct : (n, K) float64 array
        1 right, 0 wrong.
    cost : (n, K) float64 array, or None
        USD of asking. None where no cost was given.
    groups : (n,) array, or None
        None where no groups were given: each query by itself.
    """

    rows: np.ndarray
    correct: np.ndarray
    cost: np.ndarray | None
    groups: np.ndarray | None

    @property
    def codes(self) -> np.ndarray:
        """The groups numbered from 0, (n,) int; each query's own number where there are none."""
        if self.groups is None:
            return np.arange(len(self.correct))
        return np.unique(self.groups, return_inverse=True)[1]

    def costs(self, cost: np.ndarray) -> np.ndarray:
        """Return other costs of these queries, (n, K).

        Parameters
        ----------
        cost : (K,) or (N, K) array
            In USD.

        Raises
        ------
        InputError
            If a cost is unknown, or the shapes disagree.
        """
        return _costs(cost, self.rows, self.correct.shape)


def complete(
    correct: np.ndarray, cost: np.ndarray | None = None, groups: np.ndarray | None = None
) -> Complete:
    """Return what is known of the queries labelled for every target.

    Parameters
    ----------
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked.
    cost : (K,) or (N, K) array, optional
        What asking costs, in USD a query.
    groups : (N,) array, optional
        Queries that share a value are drawn together by a bootstrap.

    Returns
    -------
    Complete

    Raises
    ------
    InputError
        If no query is labelled for every target, a cost is unknown, or the shapes disagree.
    """
    correct = np.asarray(correct, dtype=np.float64)
    rows = ~np.isnan(correct).any(axis=1)
    if not rows.any():
        raise InputError(
            "No query is labelled for every target, so that routing cannot be evaluated: ask all "
            "targets some of the same queries, or name fewer of them (targets=A,B...)."
        )
    correct = correct[rows]
    return Complete(
        rows,
        correct,
        None if cost is None else _costs(cost, rows, correct.shape),
        None if groups is None else np.asarray(groups)[rows],
    )


def _costs(cost: np.ndarray, rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    cost = np.asarray(cost, dtype=np.float64)
    return policy.aligned(np.zeros(shape), cost[rows] if cost.ndim == 2 else cost)[1]
