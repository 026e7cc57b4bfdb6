"""Label noise: how much of the oracle's lead is luck, when an answer is one draw of many."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from prefill_router import policy
from prefill_router.evaluation.bootstrap import Interval, auc_intervals, few, intervals
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import gap_closed, macro, ratio
from prefill_router.experiments.comparison import best_single
from prefill_router.experiments.routers import LOGISTIC, PRIMARY, TFIDF, predictions
from prefill_router.experiments.study import Study

SINGLE_DRAW = "single-draw oracle"
ROUTERS = (PRIMARY, LOGISTIC, TFIDF)
N_FRESH = 200
"""Questions that are asked once more, to see whether the committed samples still hold."""


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


def evaluate_noise(
    right: np.ndarray,
    choices: Mapping[str, np.ndarray],
    best: np.ndarray,
    priority: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Compare the oracle of one draw with reproducible ones, and routers with both.

    Parameters
    ----------
    right, priority
        As in `reproducible`.
    choices : mapping of router -> (N,) int array
        The target each router asks.
    best : (N,) int array
        The best single target.
    groups, n_resamples, seed
        As in `bootstrap.intervals`.

    Returns
    -------
    list of Estimate
        "accuracy", of every router, the best single target and the oracles: the one that knows a
        draw's outcome, and, for each m below S, "oracle, m draws seen". "headroom" of the oracles,
        and "real share": theirs divided by the single draw's. "gap closed, single draw" and "gap
        closed, reproducible" of every router: the latter against the oracle that has seen half.
    """
    n_draws, n = right.shape[:2]
    oracles = {SINGLE_DRAW: right.any(axis=2).mean(axis=0)}
    oracles |= {seen_name(m): reproducible(right, m, priority) for m in range(1, n_draws)}
    chance = right.mean(axis=0)
    asked = {"best single target": best, **choices}
    values = {name: np.take_along_axis(chance, at[:, None], 1)[:, 0] for name, at in asked.items()}
    names = [*values, *oracles]
    half, first = names.index(seen_name(n_draws // 2)), len(asked)

    def measure(means: np.ndarray) -> np.ndarray:
        base, one, real = means[:, [0]], means[:, [first]], means[:, [half]]
        room = means[:, first:] - base
        routers = means[:, 1:first]
        return np.hstack(
            [means, room, room[:, 1:] / room[:, :1], gap_closed(routers, base, one),
             gap_closed(routers, base, real)]
        )  # fmt: skip

    labels = [
        *[("accuracy", name) for name in names],
        *[("headroom", name) for name in oracles],
        *[("real share", name) for name in list(oracles)[1:]],
        *[("gap closed, single draw", name) for name in choices],
        *[("gap closed, reproducible", name) for name in choices],
    ]
    table = np.column_stack([*values.values(), *oracles.values()])
    found = intervals(table, groups, measure, n_resamples, seed)
    return [_row(metric, name, "", x, n) for (metric, name), x in zip(labels, found, strict=True)]


def seen_name(n_seen: int) -> str:
    """Name the oracle that chooses by so many draws."""
    return f"oracle, {n_seen} draws seen"


def evaluate_reliability(
    right: np.ndarray,
    targets: tuple[str, ...],
    groups: np.ndarray | None = None,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Say how far one draw tells what a target can do.

    Parameters
    ----------
    right : (S, N, K) array of bool
    targets : (K,) tuple of str
    groups, n_resamples, seed
        As in `bootstrap.intervals`.

    Returns
    -------
    list of Estimate
        For each target "two draws agree", the chance that two draws of one query are both right or
        both wrong, and "label reliability", the share of a single draw's variance that is between
        queries (the intraclass correlation ICC(1), which is also the correlation of two draws).

    References
    ----------
    Shrout and Fleiss, "Intraclass correlations: uses in assessing rater reliability", 1979.
    """
    n_draws, n, n_targets = right.shape
    chance = right.mean(axis=0)
    within = chance * (1 - chance) * n_draws / (n_draws - 1)  # unbiased: of a draw of one query

    def measure(means: np.ndarray) -> np.ndarray:
        inside, mean = means[:, :n_targets], means[:, n_targets:]
        variance = mean * (1 - mean)
        return np.hstack([1 - 2 * inside, ratio(variance - inside, variance)])

    found = intervals(np.hstack([within, chance]), groups, measure, n_resamples, seed)
    keys = [(m, t) for m in ("two draws agree", "label reliability") for t in targets]
    return [_row(metric, "", target, x, n) for (metric, target), x in zip(keys, found, strict=True)]


def evaluate_ceiling(
    right: np.ndarray,
    p: Mapping[str, np.ndarray],
    targets: tuple[str, ...],
    groups: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    *,
    n_resamples: int = 500,
    seed: int = 0,
) -> list[Estimate]:
    """Bound the AUC against single draws of a router that knows every chance of being right.

    Parameters
    ----------
    right : (S, N, K) array of bool
    p : mapping of router -> (N, K) array
        Predicted P(correct), whose AUC is taken against the same draws.
    folds : (N,) array, optional
        Only queries of the same fold are compared: its routers' scores have a scale of their own.
    targets, groups, n_resamples, seed
        As in `evaluate_reliability`.

    Returns
    -------
    list of Estimate
        AUC for each target and on average. "ceiling, lower bound" scores a query by its other
        draws' mean, which is noisier than the chance itself; "ceiling, upper bound" by the mean of
        all draws, which contains the outcome that is to be predicted.
    """
    n_draws, n, n_targets = right.shape
    total = right.sum(axis=0)
    scores = {
        "ceiling, lower bound": (total - right) / (n_draws - 1),
        "ceiling, upper bound": np.broadcast_to(total / n_draws, right.shape),
    }
    scores |= {name: np.broadcast_to(values, right.shape) for name, values in p.items()}
    columns = np.concatenate([s.reshape(-1, n_targets) for s in scores.values()], axis=1)
    outcomes = np.tile(right.reshape(-1, n_targets).astype(float), (1, len(scores)))
    groups = np.arange(n) if groups is None else groups

    def with_mean(areas: np.ndarray) -> np.ndarray:
        areas = areas.reshape(len(areas), len(scores), n_targets)
        return np.concatenate([areas, macro(areas)[..., None]], axis=2).reshape(len(areas), -1)

    found = auc_intervals(
        columns, outcomes, np.tile(groups, n_draws), with_mean, n_resamples, seed,
        None if folds is None else np.tile(folds, n_draws),
    )  # fmt: skip
    keys = [(name, target) for name in scores for target in [*targets, ""]]
    return rows_of("AUC against a draw", keys, found, "test", n)


def label_noise(study: Study) -> list[Estimate]:
    """Answer the chapter's questions on label noise, for the embedded zoo.

    The routers were fitted to greedy answers and are scored on samples of their targets' answers
    at temperature 1, each asking the likeliest target.

    Returns
    -------
    list of Estimate
        Empty for other labels: they hold one answer, and nobody can be asked again.
    """
    if not can_be_sampled(study):
        return []
    from prefill_router.zoo.sampling import N_DRAWS, draw_answers, load_samples

    labels, p = study.labels, study.parameters
    here = np.flatnonzero(labels.split[study.test_rows] != "train")  # the rest was not sampled
    rows = study.test_rows[here]
    right, groups = load_samples(labels, rows), labels.group[rows]
    predicted = {name: study.over_folds(predictions(study, name))[here] for name in ROUTERS}
    settings = {"n_resamples": p.n_resamples, "seed": p.seed}
    found = evaluate_noise(
        right,
        {name: policy.argmax(values) for name, values in predicted.items()},
        best_single(study)[here],
        labels.take(study.splits[0].train).summary()["accuracy"].to_numpy(),
        groups,
        **settings,
    )
    found += evaluate_reliability(right, labels.targets, groups, **settings)
    fewer = settings | {"n_resamples": few(p.n_resamples)}
    folds = study.test_folds[here]
    found += evaluate_ceiling(right, predicted, labels.targets, groups, folds, **fewer)
    fresh_rows = np.sort(
        np.random.default_rng(p.seed).choice(len(rows), min(N_FRESH, len(rows)), replace=False)
    )
    fresh = draw_answers(labels, rows[fresh_rows], range(N_DRAWS, N_DRAWS + 1), p.device)
    chance = right.mean(axis=0)
    shift = fresh[0] - chance[fresh_rows]
    greedy = labels.correct[rows]
    for metric, values, rows_used in (
        ("accuracy at temperature 1", chance, np.arange(len(rows))),
        ("accuracy, greedy", greedy, np.arange(len(rows))),
        ("accuracy asked again - committed", shift, fresh_rows),
    ):
        by_target = intervals(values, groups[rows_used], None, **settings)
        keys = [("", target) for target in labels.targets]
        found += rows_of(metric, keys, by_target, "test", len(values))
    return found


def can_be_sampled(study: Study) -> bool:
    """Return whether samples of the targets' answers belong to a study's labels."""
    return study.is_zoo and not study.parameters.fresh_labels


def _row(metric: str, router: str, target: str, x: Interval, n: int) -> Estimate:
    return rows_of(metric, [(router, target)], [x], "test", n)[0]
