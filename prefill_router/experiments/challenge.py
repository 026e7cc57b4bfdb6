"""The contest with the published recipe: candidates, choice on validation rows, one frozen winner.

Candidates are the challengers, the routers that read no more than they do, and what is made of them
on validation rows: their average, a greedy ensemble, and each with its deviations recalibrated.
What is fitted on validation rows is scored there by cross-fitting, so that all scores compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold

from prefill_router.baselines.ridge import join_parts
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import intervals
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import gap_closed, pairwise_brier
from prefill_router.experiments.challengers import CHALLENGERS, challenger_names
from prefill_router.experiments.routers import (
    ACCURACY,
    BENCHMARK,
    CONTROLS,
    calibrate,
    configurations,
    predictions,
    router_names,
)
from prefill_router.experiments.study import Study
from prefill_router.progress import track

CHALLENGER = "challenger chosen on validation"
AVERAGE, GREEDY = "average of all candidates", "greedy ensemble"
RECALIBRATED = ", recalibrated"
STEPS = 20  # members of a greedy ensemble, some of them repeated
PARTS = 5  # of the validation rows, for cross-fitting

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Challenge:
    """What was tried and what was chosen.

    Attributes
    ----------
    scores : list of dict
        Of each fold: every candidate's pairwise Brier score on its validation rows.
    winners : list of str
        The candidate with the least one, in each fold.
    p : list of ndarray, shape (N, K)
        The winner's P(correct) in each fold, NaN on training rows.
    validated : list of dict
        Of each fold: every candidate's P(correct) on its validation rows, cross-fitted.
    n_tried : int
        Configurations compared on validation or inner rows, in all folds.
    """

    scores: list[dict[str, float]]
    winners: list[str]
    p: list[np.ndarray]
    validated: list[dict[str, np.ndarray]]
    n_tried: int


def members(study: Study, full: bool) -> list[str]:
    """Return the routers that may take part: all but controls and those told the benchmark."""
    left_out = (*CONTROLS, BENCHMARK, ACCURACY)
    return [name for name in router_names(study, full) if name not in left_out]


def recalibrate(p: np.ndarray, Y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit deviations from the row's mean: an intercept a target, and one slope, by least squares.

    Parameters
    ----------
    p, Y : ndarrays of shape (n, K)
        Predicted P(correct) and labels; only complete rows count.

    Returns
    -------
    callable
        Maps P(correct), (m, K), to P(correct) with the same row means, as far as [0, 1] allows.
    """
    rows = ~np.isnan(Y).any(axis=1)
    deviations, wanted = _deviations(p[rows]), _deviations(Y[rows])
    centre, aim = deviations.mean(axis=0), wanted.mean(axis=0)
    spread = ((deviations - centre) ** 2).sum()
    shared = ((deviations - centre) * (wanted - aim)).sum()
    slope = shared / spread if spread > 0 else 0.0
    return lambda q: join_parts(q.mean(axis=1), aim + slope * (_deviations(q) - centre))


def greedy(stack: np.ndarray, Y: np.ndarray, n_steps: int = STEPS) -> np.ndarray:
    """Weigh models by forward selection, with repeats, for the least pairwise Brier score.

    Parameters
    ----------
    stack : ndarray of shape (M, n, K)
        P(correct) of M models.
    Y : ndarray of shape (n, K)
        Labels; rows with fewer than two say nothing, and without others all weigh alike.
    n_steps : int, default 20
        Models taken; the best number of them, at most so many, is kept.

    Returns
    -------
    ndarray of shape (M,)
        Weights that sum to 1.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models",
    2004.
    """
    rows = (~np.isnan(Y)).sum(axis=1) > 1
    if not rows.any():
        return np.full(len(stack), 1 / len(stack))
    stack, Y = stack[:, rows], Y[rows]
    total, counts, best = np.zeros(stack.shape[1:]), np.zeros(len(stack)), (np.inf, None)
    for step in range(1, n_steps + 1):
        scores = [pairwise_brier((total + p) / step, Y).mean() for p in stack]
        taken = int(np.argmin(scores))
        counts[taken] += 1
        total += stack[taken]
        if scores[taken] < best[0]:
            best = (scores[taken], counts / step)
    return best[1]


def cross_fitted(
    fit: Fit, values: np.ndarray, Y: np.ndarray, groups: np.ndarray, seed: int
) -> np.ndarray:
    """Return what models fitted on the other parts of the rows say of each row, (n, K).

    Parameters
    ----------
    fit : callable
        Maps values (n', ...) and labels to a function from values to P(correct).
    values : ndarray, shape (n, ...)
    Y : ndarray of shape (n, K)
    groups : ndarray of shape (n,)
        Rows that share a value are in the same part.
    seed : int

    Raises
    ------
    InputError
        If all rows are of one group.
    """
    n_parts = min(PARTS, len(np.unique(groups)))
    if n_parts < 2:
        raise InputError(
            f"All {len(Y)} validation queries are of one group, so that nothing fitted on some can "
            "be scored on others; give more queries, or finer groups."
        )
    result = np.empty(Y.shape)
    parts = GroupKFold(n_parts, shuffle=True, random_state=seed).split(values, groups=groups)
    for fitted, held in parts:
        result[held] = fit(values[fitted], Y[fitted])(values[held])
    return result


def challenge(study: Study, full: bool) -> Challenge:
    """Fit all candidates, and choose one in each fold on validation rows; test is not looked at.

    `full` as for `router_names`.
    """
    sources = [(name, CHALLENGERS) for name in challenger_names(study)]
    fitted = {
        name: predictions(study, name, among=among, calibrated=False) for name, among in sources
    }
    fitted |= {name: predictions(study, name, calibrated=False) for name in members(study, full)}
    n_tried = sum(configurations(study, name, among) for name, among in sources)
    n_tried += sum(configurations(study, name) for name in members(study, full))
    folds = [
        _fold(study, fold, {name: p[fold] for name, p in fitted.items()})
        for fold in track(range(len(study.splits)), "Choosing a challenger")
    ]
    made = len(folds) * (len(fitted) + 2 * 2)  # recalibrated ones; average and ensemble, likewise
    scores, winners, p, validated = (list(part) for part in zip(*folds, strict=True))
    return Challenge(scores, winners, p, validated, n_tried + made)


def _fold(study: Study, fold: int, fitted: dict[str, np.ndarray]):
    v, seed = study.splits[fold].validation, study.parameters.seed
    Y, groups = study.labels.correct[v], study.labels.group[v]
    stack = np.stack(list(fitted.values()), axis=1)  # (N, M, K): rows first, as for one model

    def ensemble(values: np.ndarray, labels: np.ndarray) -> Callable:
        weights = greedy(values.swapaxes(0, 1), labels)
        return lambda other: np.tensordot(other, weights, axes=(1, 0))

    def recalibrated(first: Fit) -> Fit:
        def fit(values: np.ndarray, labels: np.ndarray) -> Callable:
            inner = first(values, labels)
            outer = recalibrate(inner(values), labels)
            return lambda other: outer(inner(other))

        return fit

    fits: dict[str, Fit] = {
        name: (lambda values, labels, m=m: lambda other: other[:, m])
        for m, name in enumerate(fitted)
    }
    fits |= {AVERAGE: lambda values, labels: lambda other: other.mean(axis=1), GREEDY: ensemble}
    fits |= {f"{name}{RECALIBRATED}": recalibrated(fit) for name, fit in list(fits.items())}
    validated = {n: cross_fitted(fit, stack[v], Y, groups, seed) for n, fit in fits.items()}
    scores = {n: float(np.nanmean(pairwise_brier(p, Y))) for n, p in validated.items()}
    winner = min(scores, key=scores.get)
    p = calibrate(study, fold, fits[winner](stack[v], Y)(stack))
    return scores, winner, p, validated


def validation_rows(study: Study, found: Challenge) -> list[Estimate]:
    """Return how the candidates did on validation rows, and what was chosen.

    Returns
    -------
    list of Estimate
        For each candidate, over the validation rows of all folds: "pairwise Brier", and "gap
        closed" by argmax. "folds won" of the winners; "configurations tried" of `CHALLENGER`. The
        best of many looks better on the rows that chose it than it is.
    """
    p, labels = study.parameters, study.labels
    v = np.concatenate([split.validation for split in study.splits])
    kept = complete(labels.correct[v], groups=labels.group[v])
    correct = kept.correct
    best = np.concatenate(
        [
            np.full(len(s.validation), k)
            for s, k in zip(study.splits, study.best_single, strict=True)
        ]
    )[kept.rows]
    names = list(found.scores[0])
    predicted = [np.concatenate([p[name] for p in found.validated])[kept.rows] for name in names]
    rows = np.arange(len(correct))
    columns = [pairwise_brier(q, correct) for q in predicted]
    columns += [correct[rows, q.argmax(axis=1)] for q in predicted]
    columns += [correct[rows, best], correct.max(axis=1)]
    n = len(names)

    def statistic(means: np.ndarray) -> np.ndarray:
        closed = gap_closed(means[:, n : 2 * n], means[:, [-2]], means[:, [-1]])
        return np.hstack([means[:, :n], closed])

    drawn = intervals(np.column_stack(columns), kept.groups, statistic, p.n_resamples, p.seed)
    pairs = [(name, "") for name in names]
    result = rows_of("pairwise Brier", pairs, drawn[:n], "validation", len(correct))
    result += rows_of("gap closed", pairs, drawn[n:], "validation", len(correct))
    counts = {name: found.winners.count(name) for name in dict.fromkeys(found.winners)}
    counted = [("folds won", name, count) for name, count in counts.items()]
    counted += [("configurations tried", CHALLENGER, found.n_tried)]
    return result + [
        Estimate(metric, name, "", "validation", float(count), np.nan, np.nan, len(v))
        for metric, name, count in counted
    ]


def _deviations(p: np.ndarray) -> np.ndarray:
    return p - p.mean(axis=1, keepdims=True)
