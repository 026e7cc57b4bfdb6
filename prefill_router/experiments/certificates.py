"""What a study's held-out labels allow to promise, and whether the promise is kept.

The test queries of each fold are halved by groups: one half certifies a tolerance for that fold's
router, the other reports what it does. No label is on both sides, and none of either chose layers,
trained or calibrated that router. Folds are certified one by one: each has a router of its own, and
what tests one has trained another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from prefill_router import policy
from prefill_router.evaluation.bootstrap import Interval
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.experiments.against_single import compare_with_single
from prefill_router.experiments.comparison import best_single
from prefill_router.experiments.study import Study
from prefill_router.router.guarantee import TAUS, Guarantee, certify
from prefill_router.router.guarantee_checks import labels_needed

LOSSES = (0.01, 0.02, 0.05)
"""Losses of accuracy that may be allowed."""
CONFIDENCE = 0.95
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of a fold's test groups that are drawn to see how many labels a promise takes."""
CERTIFYING, REPORTING = "test, certifying half", "test, reporting half"
TAU, FIRST_P, GROUPS = "certified tau", "p-value, tau 0", "certifying groups"
CERTIFIED, MEDIAN_TAU = "share certified", "median certified tau"


def allowed(loss: float) -> str:
    """Name the router that may lose so much."""
    return f"at most {100 * loss:g} point{'' if loss == 0.01 else 's'}"


def tolerances(study: Study) -> tuple[float, ...]:
    """Return what is tried: without prices nobody is cheaper, and every tolerance is argmax."""
    return TAUS if study.has_costs else (0.0,)


def known_costs(study: Study, fold: int) -> np.ndarray:
    """Return costs as a fold's policy expects them, (N, K): all alike where prices are unknown."""
    return study.expected_costs(fold) if study.has_costs else np.zeros(study.labels.correct.shape)


def halves(study: Study, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a fold's test part that certify, and those that report.

    Only queries labelled for every target; a seeded half of their groups each.
    """
    test = study.splits[fold].test
    test = test[~np.isnan(study.labels.correct[test]).any(axis=1)]
    groups = study.labels.group[test]
    shuffled = np.random.default_rng(study.parameters.seed).permutation(np.unique(groups))
    first = np.isin(groups, shuffled[: -(-len(shuffled) // 2)])
    return test[first], test[~first]


def evaluate_guarantee(
    study: Study, p: Sequence[np.ndarray], losses: Sequence[float] = LOSSES
) -> list[Estimate]:
    """Certify tolerances on one half of the test queries, and report them on the other.

    Parameters
    ----------
    study : Study
    p : sequence of ndarrays of shape (N, K)
        Calibrated P(correct) in each fold.
    losses : sequence of float
        Losses allowed, against the best single target.

    Returns
    -------
    list of Estimate
        For each loss and fold (router "at most 2 points, fold 1") on the `CERTIFYING` half `TAU`,
        undefined where nothing is certified, `FIRST_P`, the p-value of the first tolerance tried,
        and the number of `GROUPS`. For each loss, on the `REPORTING` half of all folds, what
        `compare_with_single` says of the certified tolerances, each group counting once as in the
        certificate; where there is none, the best single target is asked.
    """
    parts = [halves(study, fold) for fold in range(len(study.splits))]
    n, correct, targets = study.labels.n_queries, study.labels.correct, study.labels.targets
    found, choices = [], {}
    for loss in losses:
        chosen = np.zeros(n, dtype=int)
        for fold, (certifying, reporting) in enumerate(parts):
            if not len(certifying):
                continue
            cost, best = known_costs(study, fold), study.best_single[fold]
            promise = certify(
                p[fold][certifying],
                correct[certifying],
                cost[certifying],
                best,
                study.labels.group[certifying],
                targets=targets,
                max_loss=loss,
                confidence=CONFIDENCE,
                taus=tolerances(study),
            )
            found += _certificate(promise, f"{allowed(loss)}, fold {fold + 1}")
            chosen[reporting] = best
            if promise.tau is not None and len(reporting):
                values = p[fold][reporting], cost[reporting]
                chosen[reporting] = policy.tolerance(*values, promise.tau)
        choices[allowed(loss)] = chosen
    rows = np.sort(np.concatenate([reporting for _, reporting in parts]))
    if not len(rows):
        return found
    return found + compare_with_single(
        {name: chosen[rows] for name, chosen in choices.items()},
        correct[rows],
        study.costs[rows] if study.has_costs else None,
        best_single(study)[np.searchsorted(study.test_rows, rows)],
        study.labels.group[rows],
        each_group_once=True,
        split=REPORTING,
        n_resamples=study.parameters.n_resamples,
        seed=study.parameters.seed,
    )


def _certificate(promise: Guarantee, name: str) -> list[Estimate]:
    nan = float("nan")
    tau = nan if promise.tau is None else promise.tau
    values = ((TAU, tau), (FIRST_P, promise.p_values[0]), (GROUPS, float(promise.n_groups)))
    return [Estimate(m, name, "", CERTIFYING, x, nan, nan, promise.n) for m, x in values]


def evaluate_labels_needed(
    study: Study, p: Sequence[np.ndarray], losses: Sequence[float] = LOSSES, repetitions: int = 20
) -> list[Estimate]:
    """Say how many held-out labels a promise takes: fewer are drawn, again and again.

    Parameters
    ----------
    study, p, losses
        As for `evaluate_guarantee`.
    repetitions : int, default 20
        Draws of each share of a fold's test groups but the whole.

    Returns
    -------
    list of Estimate
        For each loss and share (router "at most 2 points, 300 labels"), over draws and folds:
        `CERTIFIED`, with an interval that covers the drawing alone (Clopper and Pearson; none
        where all are taken), and, where costs are known, `MEDIAN_TAU` of the draws in which one
        was, with the least and the largest over folds. `n` counts draws.
    """
    parts = [np.sort(np.concatenate(halves(study, fold))) for fold in range(len(study.splits))]
    result = []
    for loss in losses:
        tables = [
            labels_needed(
                p[fold][test],
                study.labels.correct[test],
                known_costs(study, fold)[test],
                study.best_single[fold],
                study.labels.group[test],
                targets=study.labels.targets,
                max_losses=(loss,),
                confidence=CONFIDENCE,
                shares=SHARES,
                repetitions=repetitions,
                seed=study.parameters.seed,
                taus=tolerances(study),
            )
            for fold, test in enumerate(parts)
            if len(test)
        ]
        for place, share in enumerate(SHARES if tables else ()):
            lines = pd.DataFrame([table.iloc[place] for table in tables])
            name = f"{allowed(loss)}, {lines['queries'].mean():.0f} labels"
            if any(row.router == name for row in result):
                continue  # so few groups that two shares are as many
            n = len(lines) * (1 if share == 1 else repetitions)
            drawn = _of_draws(CERTIFIED, name, round(lines["certified"].mean() * n), n)
            all_taken = {"lower": np.nan, "upper": np.nan} if share == 1 else {}
            result.append(replace(drawn, **all_taken))
            taus = lines["tau"].dropna()
            if study.has_costs and len(taus):
                spread = Interval(float(taus.median()), float(taus.min()), float(taus.max()))
                result += rows_of(MEDIAN_TAU, [(name, "")], [spread], "test", n)
    return result


def _of_draws(metric: str, router: str, count: int, n: int) -> Estimate:
    bounds = binomtest(count, n).proportion_ci(0.95, "exact")
    return Estimate(metric, router, "", "test", count / n, float(bounds.low), float(bounds.high), n)
