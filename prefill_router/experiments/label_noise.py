"""Label noise: how much of the oracle's lead is luck, when an answer is one draw of many."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.bootstrap import Values
from prefill_router.evaluation.comparison import BEST, Evaluation
from prefill_router.evaluation.results import Quantity, results
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.experiments.study import Study
from prefill_router.metrics import gap_closed

SINGLE_DRAW, REPRODUCIBLE = "single-draw oracle", "reproducible oracle"
REAL = "real share"
OF_DRAW, OF_REPRODUCIBLE = "gap closed, single draw", "gap closed, reproducible"


def label_noise(study: Study) -> pd.DataFrame:
    """Say how much of the oracle's headroom is luck, for the embedded zoo.

    `PRIMARY` was fitted to greedy answers and is scored on samples of its targets' answers at
    temperature 1; it asks the likeliest target.

    Returns
    -------
    pandas.DataFrame
        What `evaluate_noise` finds. Empty for other labels: they hold one answer per query.
    """
    if not study.is_zoo or study.parameters.fresh_labels:
        return results()
    from prefill_router.zoo.labelling import load_samples

    labels, at = study.labels, held_out(study)
    at = at.take(labels.split[at.rows] != "train")
    priority = labels.take(study.splits[0].train).accuracy
    asked = policy.argmax(at.join(predictions(study, PRIMARY)))
    return evaluate_noise(at, load_samples(labels, at.rows), priority, PRIMARY, asked)


def evaluate_noise(
    at: Evaluation, right: np.ndarray, priority: np.ndarray, router: str, asked: np.ndarray
) -> pd.DataFrame:
    """Compare the oracle of one draw with reproducible ones, and a router with both.

    Parameters
    ----------
    at : Evaluation
        N queries and their best single target.
    right, priority
        As in `reproducible`.
    router : str
    asked : (N,) int array
        The target the router asks.

    Returns
    -------
    pandas.DataFrame
        "headroom" of the oracles: `SINGLE_DRAW`, which knows a draw's outcome, and `REPRODUCIBLE`,
        which has seen `x` of the S draws; and `REAL`, the latter's divided by the former. The
        router's `OF_DRAW` and `OF_REPRODUCIBLE`, the latter against the oracle that has seen half.
    """
    n_draws, chance = len(right), right.mean(axis=0)
    columns = {m: reproducible(right, m, priority) for m in range(1, n_draws)}
    columns[SINGLE_DRAW] = right.any(axis=2).mean(axis=0)
    for name, choice in {BEST: at.best_single, router: asked}.items():
        columns[name] = chance[np.arange(len(chance)), choice]

    def headroom(m: Values, oracle: int | str) -> np.ndarray:
        return m[oracle] - m[BEST]

    def closed(m: Values, of: int | str, oracle: int | str) -> np.ndarray:
        return gap_closed(m[of], m[BEST], m[oracle])

    found = {Quantity("headroom", SINGLE_DRAW): lambda m: headroom(m, SINGLE_DRAW)}
    for seen in range(1, n_draws):
        found[Quantity("headroom", REPRODUCIBLE, x=seen)] = lambda m, s=seen: headroom(m, s)
        found[Quantity(REAL, REPRODUCIBLE, x=seen)] = lambda m, s=seen: closed(m, s, SINGLE_DRAW)
    found[Quantity(OF_DRAW, router)] = lambda m: closed(m, router, SINGLE_DRAW)
    found[Quantity(OF_REPRODUCIBLE, router)] = lambda m: closed(m, router, n_draws // 2)
    return at.estimate(columns, found)


def reproducible(right: np.ndarray, n_seen: int, priority: np.ndarray) -> np.ndarray:
    """Return how often the target is right that was right most often in draws seen before.

    Parameters
    ----------
    right : (S, N, K) array of bool
        Whether each draw of each target's answer to each query is right.
    n_seen : int
        Draws that choose the target; the S - n_seen others score it.
    priority : (K,) array
        Ties go to the target with the highest.

    Returns
    -------
    (N,) array
        Shares of right answers, averaged over all ways to choose the draws seen. Its mean is free
        of the luck of the draws that chose, and grows with `n_seen` towards that of an oracle that
        knows every chance of being right.
    """
    n_draws, total = len(right), right.sum(axis=0, dtype=np.int16)
    order = np.argsort(-np.asarray(priority), kind="stable")
    share = np.zeros(right.shape[1])
    ways = list(combinations(range(n_draws), n_seen))
    for seen in ways:
        count = right[list(seen)].sum(axis=0, dtype=np.int16)
        choice = order[count[:, order].argmax(axis=1)][:, None]
        share += np.take_along_axis(total - count, choice, axis=1)[:, 0]
    return share / (len(ways) * (n_draws - n_seen))
