"""Label noise: how much of the oracle's lead is luck, when an answer is one draw of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from operator import itemgetter

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.bootstrap import Values, differences
from prefill_router.evaluation.comparison import BEST, Evaluation
from prefill_router.evaluation.results import Quantity, results
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import LOGISTIC, PRIMARY, TFIDF, predictions
from prefill_router.experiments.study import Study
from prefill_router.metrics import gap_closed, ratio

SINGLE_DRAW, REPRODUCIBLE = "single-draw oracle", "reproducible oracle"
CEILING = "AUC against a draw"
LOWER, UPPER = "ceiling, lower bound", "ceiling, upper bound"
GREEDY, SAMPLED = "greedy answers", "answers at temperature 1"
ASKED_AGAIN = "answers asked again"
AGREEMENT, RELIABILITY = "two draws agree", "label reliability"
OF_DRAW, OF_REPRODUCIBLE = "gap closed, single draw", "gap closed, reproducible"
ROUTERS = (PRIMARY, LOGISTIC, TFIDF)
N_FRESH = 200
"""Questions that are asked once more, to see whether the committed samples still hold."""


def label_noise(study: Study) -> pd.DataFrame:
    """Answer the chapter's questions on label noise, for the embedded zoo.

    The routers were fitted to greedy answers and are scored on samples of their targets' answers
    at temperature 1, each asking the likeliest target.

    Returns
    -------
    pandas.DataFrame
        What `evaluate_noise` and `evaluate_ceiling` find; and of each target the accuracy of
        `GREEDY` and of `SAMPLED` answers and, on `N_FRESH` queries that are asked once more, of
        fresh answers less the stored ones. Empty for other labels: they hold one answer, and nobody
        can be asked again.
    """
    if not study.is_zoo or study.parameters.fresh_labels:
        return results()
    from prefill_router.zoo.labelling import N_DRAWS, draw_answers, load_samples

    labels, at = study.labels, held_out(study)
    at = at.take(labels.split[at.rows] != "train")
    right = load_samples(labels, at.rows)
    p = {name: at.join(predictions(study, name)) for name in ROUTERS}
    choices = {name: policy.argmax(values) for name, values in p.items()}
    priority = labels.take(study.splits[0].train).summary()["accuracy"].to_numpy()
    n, rng = len(at.rows), np.random.default_rng(at.seed)
    some = np.sort(rng.choice(n, min(N_FRESH, n), replace=False))
    again = range(N_DRAWS, N_DRAWS + 1)
    fresh = draw_answers(labels, at.rows[some], again, study.parameters.device)[0]
    answers = {GREEDY: at.correct, SAMPLED: right.mean(axis=0)}
    accuracy = {"accuracy": lambda m, name: m[name]}
    change = tuple(Quantity("accuracy", ASKED_AGAIN, SAMPLED, target) for target in at.targets)
    found = [
        evaluate_noise(at, right, choices, priority),
        evaluate_ceiling(at, right, p),
        at.estimate(answers, differences(accuracy, answers, targets=at.targets)),
        at.take(some).estimate({"": fresh - answers[SAMPLED][some]}, {change: itemgetter("")}),
    ]
    return pd.concat(found, ignore_index=True)


def evaluate_noise(
    at: Evaluation, right: np.ndarray, choices: Mapping[str, np.ndarray], priority: np.ndarray
) -> pd.DataFrame:
    """Compare the oracle of one draw with reproducible ones, and routers with both.

    Parameters
    ----------
    at : Evaluation
        N queries, their best single target, and the K targets.
    right, priority
        As in `reproducible`.
    choices : mapping of router -> (N,) int array
        The target each router asks.

    Returns
    -------
    pandas.DataFrame
        "headroom" of the oracles: `SINGLE_DRAW`, which knows a draw's outcome, and `REPRODUCIBLE`,
        which has seen `x` of the S draws; and "real share", the latter's divided by the former.
        "gap closed, single draw" and "gap closed, reproducible" of every router: the latter against
        the oracle that has seen half. Of each target `AGREEMENT`, the chance that two draws of one
        query are both right or both wrong; and `RELIABILITY`, the share of a single draw's
        variance that is between queries (the intraclass correlation ICC(1), which is also the
        correlation of two draws).

    References
    ----------
    Shrout and Fleiss, "Intraclass correlations: uses in assessing rater reliability", 1979.
    """
    n_draws, chance = len(right), right.mean(axis=0)
    single, half = (SINGLE_DRAW, None), (REPRODUCIBLE, n_draws // 2)
    seen = {(REPRODUCIBLE, m): reproducible(right, m, priority) for m in range(1, n_draws)}
    columns = {single: right.any(axis=2).mean(axis=0), **seen}
    for name, asked in {BEST: at.best_single, **choices}.items():
        columns[name] = chance[np.arange(len(chance)), asked]
    columns["chance"] = chance
    columns["within"] = chance * (1 - chance) * n_draws / (n_draws - 1)  # unbiased: of one query

    def headroom(m: Values, oracle: tuple) -> np.ndarray:
        return m[oracle] - m[BEST]

    def reliability(m: Values, _: str) -> np.ndarray:
        variance = m["chance"] * (1 - m["chance"])
        return ratio(variance - m["within"], variance)

    of_routers = {
        OF_DRAW: lambda m, a: gap_closed(m[a], m[BEST], m[single]),
        OF_REPRODUCIBLE: lambda m, a: gap_closed(m[a], m[BEST], m[half]),
    }
    of_targets = {AGREEMENT: lambda m, _: 1 - 2 * m["within"], RELIABILITY: reliability}
    found = {(Quantity("headroom", SINGLE_DRAW),): lambda m: headroom(m, single)}
    for oracle in seen:
        of = {"router": REPRODUCIBLE, "x": oracle[1]}
        found[Quantity("headroom", **of), Quantity("real share", **of)] = lambda m, oracle=oracle: (
            np.column_stack([headroom(m, oracle), headroom(m, oracle) / headroom(m, single)])
        )
    found |= differences(of_routers, choices) | differences(of_targets, [""], targets=at.targets)
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


def evaluate_ceiling(
    at: Evaluation, right: np.ndarray, p: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Bound the AUC against single draws of a router that knows every chance of being right.

    Parameters
    ----------
    at : Evaluation
        N queries, their groups and folds, and the K targets.
    right : (S, N, K) array of bool
    p : mapping of router -> (N, K) array
        Predicted P(correct), whose AUC is taken against the same draws.

    Returns
    -------
    pandas.DataFrame
        "AUC against a draw" for each target and on average. `LOWER` scores a query by its other
        draws' mean, which is noisier than the chance itself; `UPPER` by the mean of all draws,
        which contains the outcome that is to be predicted.
    """
    n_draws, n, n_targets = right.shape
    total = right.sum(axis=0)
    scores = {LOWER: (total - right) / (n_draws - 1), UPPER: total / n_draws, **p}
    draws = replace(at.take(np.tile(np.arange(n), n_draws)), correct=right.reshape(-1, n_targets))
    scores = {
        name: np.broadcast_to(s, right.shape).reshape(-1, n_targets) for name, s in scores.items()
    }
    return draws.probabilities(scores, only=["AUC"]).assign(metric=CEILING, n=n)
