"""The contest with the published recipe: candidates, choice on validation rows, one frozen winner.

Candidates read all layers with three heads; the routers that read no more than they do take part,
and so do the average and a greedy ensemble of all these. The ensemble is fitted on validation rows,
and scored there by cross-fitting, so that all scores compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from prefill_router.baselines.classifiers import TargetLogistic
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import differences
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.experiments import routers
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import RouterSpec, predictions, tuned
from prefill_router.experiments.study import Study
from prefill_router.metrics import pairwise_brier
from prefill_router.policy import argmax
from prefill_router.progress import track
from prefill_router.recipe import all_places

CHALLENGER = "challenger chosen on validation"
AVERAGE, GREEDY = "average of all candidates", "greedy ensemble"
WON, TRIED = "folds won", "configurations tried"
PAIRWISE = "pairwise Brier"
STEPS = 20  # members of a greedy ensemble, some of them repeated
PARTS = 5  # of the validation rows, for cross-fitting
STRENGTHS = (0.0001, 0.001, 0.01, 0.1)  # C of logistic regressions
COLUMNS = 512
"""Columns of features that all layers share, for heads that are fitted step by step."""


def _all_layers(it: FoldFit) -> np.ndarray:
    return np.hstack(it.reduced(all_places(it.states, COLUMNS)))


CHALLENGERS = (
    RouterSpec("ridge, all layers", lambda it: it.recipe("ridge")),
    tuned("logistic, all layers", TargetLogistic, _all_layers, {"C": STRENGTHS}),
    RouterSpec("SharedTrunkNet, all layers", lambda it: it.trunk(_all_layers(it))),
)


def members(study: Study, full: bool) -> list[str]:
    """Return the routers that may take part: all but controls and those told the benchmark."""
    left_out = (*routers.CONTROLS, routers.BENCHMARK, routers.ACCURACY)
    return [name for name in routers.router_names(study, full) if name not in left_out]


def contest(study: Study, full: bool) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Fit all candidates, and choose one in each fold on validation rows; test is not looked at.

    `full` as for `router_names`.

    Returns
    -------
    p : list of ndarray, shape (N, K)
        The winner's P(correct) in each fold, NaN on training rows.
    results : pandas.DataFrame
        On the validation rows of all folds: `PAIRWISE` of each candidate, and the gap closed by
        what it would choose by argmax; `WON` of the winners; `TRIED` of `CHALLENGER`, the
        configurations compared on validation rows. The best of many looks better on the rows that
        chose it than it is.
    """
    specs = [*CHALLENGERS, *(routers.ROUTERS[name] for name in members(study, full))]
    fitted = {spec.name: predictions(study, spec, calibrated=False) for spec in specs}
    n_tried = 2 * len(study.splits)  # the average and the ensemble
    n_tried += sum(routers.configurations(study, spec) for spec in specs)
    folds = [
        choose_candidate(study, fold, {name: p[fold] for name, p in fitted.items()})
        for fold in track(range(len(study.splits)), "Choosing a challenger")
    ]
    validated, winners, p = zip(*folds, strict=True)
    joined = {name: np.concatenate([q[name] for q in validated]) for name in validated[0]}
    of = partial(Quantity, split="validation", n=sum(len(s.validation) for s in study.splits))
    counts = [counted(of(WON, name), winners.count(name)) for name in dict.fromkeys(winners)]
    counts.append(counted(of(TRIED, CHALLENGER), n_tried))
    return list(p), pd.concat([_validate(study, joined), results(counts)], ignore_index=True)


def choose_candidate(
    study: Study, fold: int, fitted: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], str, np.ndarray]:
    """Choose among candidates and what is made of them, by pairwise Brier score on validation rows.

    Parameters
    ----------
    study : Study
    fold : int
    fitted : mapping of candidate to (N, K) array
        P(correct), not calibrated: it has not seen the validation rows' labels.

    Returns
    -------
    validated : dict of candidate to (n, K) array
        P(correct) of the fold's validation rows, cross-fitted.
    winner : str
        The candidate with the least score.
    p : ndarray of shape (N, K)
        The winner's P(correct), calibrated on validation rows.
    """
    v = study.splits[fold].validation
    Y, groups = study.labels.correct[v], study.labels.group[v]
    stack = np.stack(list(fitted.values()), axis=1)  # (N, M, K)

    def mix(of: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """P(correct) by the ensemble that is best on some validation rows."""
        weights = greedy(stack[v[rows]].swapaxes(0, 1), Y[rows])
        return np.tensordot(of, weights, axes=(1, 0))

    average = {**fitted, AVERAGE: stack.mean(axis=1)}
    validated = {name: p[v] for name, p in average.items()} | {GREEDY: np.empty(Y.shape)}
    n_parts = min(PARTS, len(np.unique(groups)))
    if n_parts < 2:
        raise InputError(
            f"All {len(v)} validation queries are of one group, so that nothing fitted on some can "
            "be scored on others; give more queries, or finer groups."
        )
    parts = GroupKFold(n_parts, shuffle=True, random_state=study.parameters.seed)
    for rows, held in parts.split(v, groups=groups):
        validated[GREEDY][held] = mix(stack[v[held]], rows)
    scores = {name: np.nanmean(pairwise_brier(p, Y)) for name, p in validated.items()}
    winner = min(scores, key=scores.get)
    p = mix(stack, np.arange(len(v))) if winner == GREEDY else average[winner]
    return validated, winner, routers.calibrate(study, fold, p)


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


def _validate(study: Study, p: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Evaluate P(correct) of the validation rows of all folds, fold by fold."""
    at = held_out(study, "validation")
    rows, kept = at.complete()
    scores = kept.estimate(
        {name: pairwise_brier(q[rows], kept.correct) for name, q in p.items()},
        differences({PAIRWISE: lambda m, a: m[a]}, p),
    )
    gaps = at.choices({name: argmax(q) for name, q in p.items()})
    return pd.concat([scores, select(gaps, metric="gap closed")])
