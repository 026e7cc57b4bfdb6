"""How many held-out labels a guarantee takes: fewer of a pool's are drawn, again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.complete import complete
from prefill_router.router.guarantee import TAUS, certify


def labels_needed(
    p: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    best_single: int,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    max_losses: Sequence[float] = (0.01, 0.02, 0.05),
    confidence: float = 0.95,
    shares: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
    repetitions: int = 20,
    seed: int = 0,
    taus: Sequence[float] = TAUS,
) -> pd.DataFrame:
    """Say how many held-out labels a guarantee takes on a pool, by drawing fewer of them.

    Parameters
    ----------
    p, correct, cost, best_single, groups, targets, confidence, taus
        As for `prefill_router.router.guarantee.certify`.
    max_losses : sequence of float
    shares : sequence of float
        Shares of the groups that are drawn.
    repetitions : int, default 20
        Draws of each share but the whole.
    seed : int, default 0

    Returns
    -------
    pandas.DataFrame
        A row for each loss and share, every loss on the same draws: ``max_loss``, ``groups``,
        ``queries`` (mean over draws), ``certified`` (share of the draws in which a tolerance was),
        ``tau`` (its median over those), ``accuracy`` and ``cost`` (of that tau, on all the queries;
        NaN where there is none).
    """
    kept = complete(correct, cost, groups)
    p, right = np.asarray(p, dtype=np.float64)[kept.rows], kept.correct
    price, codes = kept.cost, kept.codes
    n_groups, rng = codes.max() + 1, np.random.default_rng(seed)
    sizes = [max(1, round(share * n_groups)) for share in shares]
    draws = {
        size: [
            np.isin(codes, rng.permutation(n_groups)[:size])
            for _ in range(repetitions if size < n_groups else 1)
        ]
        for size in sizes
    }
    places, table = np.arange(len(p)), []
    for max_loss in max_losses:
        for size in sizes:
            certified, queries = [], []
            for drawn in draws[size]:
                promise = certify(
                    p[drawn],
                    right[drawn],
                    price[drawn],
                    best_single,
                    codes[drawn],
                    targets=targets,
                    max_loss=max_loss,
                    confidence=confidence,
                    taus=taus,
                )
                certified.append(np.nan if promise.tau is None else promise.tau)
                queries.append(promise.n)
            given = ~np.isnan(certified)
            row = {"max_loss": max_loss, "groups": size, "queries": round(np.mean(queries))}
            row |= {"certified": given.mean(), "tau": np.nan, "accuracy": np.nan, "cost": np.nan}
            if given.any():
                tau = float(np.median(np.array(certified)[given]))
                chosen = policy.tolerance(p, price, tau)
                row |= {"tau": tau, "accuracy": right[places, chosen].mean()}
                row |= {"cost": price[places, chosen].mean()}
            table.append(row)
    return pd.DataFrame(table)
