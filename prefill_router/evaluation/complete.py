"""Earlier names, until all callers have moved to `prefill_router.evaluation.comparison`."""

from dataclasses import dataclass

import numpy as np

from prefill_router import policy
from prefill_router.evaluation.comparison import Evaluation


@dataclass(frozen=True)
class Complete:
    """Use `Evaluation.complete`."""

    rows: np.ndarray
    correct: np.ndarray
    cost: np.ndarray | None
    groups: np.ndarray | None

    @property
    def codes(self):
        """Use `Evaluation.group_codes`."""
        return Evaluation(self.correct, groups=self.groups).group_codes

    def costs(self, cost):
        """Return other costs of these queries, (n, K)."""
        cost = np.asarray(cost, dtype=np.float64)
        return policy.aligned(self.correct, cost[self.rows] if cost.ndim == 2 else cost)[1]


def complete(correct, cost=None, groups=None):
    """Use `Evaluation.complete`."""
    rows, kept = Evaluation(correct, cost, groups).complete()
    return Complete(rows, kept.correct, kept.cost, kept.groups)
