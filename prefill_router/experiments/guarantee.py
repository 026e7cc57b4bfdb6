"""What a study's held-out labels allow to promise, and whether the promise is kept.

The test queries of each fold are halved by groups: one half certifies a tolerance for that fold's
router, the other reports what it does. No label is on both sides, and none of either chose layers,
trained or calibrated that router. Folds are certified one by one: each has a router of its own, and
what tests one has trained another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from prefill_router import policy
from prefill_router.evaluation.comparison import BEST, SAVING_AGAINST_BEST, Evaluation
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.experiments.comparison import HeldOut, held_out
from prefill_router.experiments.study import Study
from prefill_router.router.guarantee import TAUS, certify

LOSSES = (0.01, 0.02, 0.05)
"""Losses of accuracy that may be allowed."""
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of a fold's test groups that are drawn to see how many labels a promise takes."""
CERTIFYING, REPORTING = "test, certifying half", "test, reporting half"
TAU, FIRST_P, GROUPS = "certified tau", "p-value, tau 0", "certifying groups"
CERTIFIED, MEDIAN_TAU = "share certified", "median certified tau"


def allowed(loss: float) -> str:
    """Name the router that may lose so much."""
    return f"at most {100 * loss:g} point{'' if loss == 0.01 else 's'}"


def evaluate_guarantee(
    study: Study, p: Sequence[np.ndarray], losses: Sequence[float] = LOSSES
) -> pd.DataFrame:
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
    pandas.DataFrame
        For each loss (`router`, named by `allowed`) and fold (`x`, from 1) on the `CERTIFYING` half
        `TAU`, undefined where nothing is certified, `FIRST_P`, the p-value of the first tolerance
        tried, and the number of `GROUPS`. For each loss, on the `REPORTING` half of all folds, the
        accuracy and saving of the certified tolerances, against the best single target's, each
        group counting once as in the certificate; where there is none, that target is asked.
    """
    _, test = held_out(study).complete()
    certifies, taus = first_halves(test), TAUS if study.has_costs else (0.0,)
    certified, choices = [], {allowed(loss): test.best_single.copy() for loss in losses}
    for loss, (fold, at, q) in product(losses, _by_fold(study, p)):
        first = certifies[test.folds == fold]
        promise = certify(at.take(first), q[first], max_loss=loss, taus=taus)
        tau = np.nan if promise.tau is None else promise.tau
        values = {TAU: tau, FIRST_P: promise.p_values[0], GROUPS: promise.n_groups}
        of = {"router": allowed(loss), "x": fold + 1, "split": CERTIFYING, "n": promise.n}
        certified += [counted(Quantity(metric, **of), value) for metric, value in values.items()]
        if promise.tau is not None:
            chosen = policy.tolerance(q[~first], at.cost[~first], promise.tau)
            choices[allowed(loss)][(test.folds == fold) & ~certifies] = chosen
    if certifies.all():
        return results(certified)
    reporting = replace(test.take(~certifies), split=REPORTING)
    asked = {name: chosen[~certifies] for name, chosen in choices.items()}
    found = reporting.choices(asked, [(name, BEST) for name in asked], each_group_once=True)
    wanted = {"router": list(asked), "metric": ["accuracy", SAVING_AGAINST_BEST]}
    return pd.concat([results(certified), select(found, versus=None, **wanted)])


def first_halves(test: HeldOut) -> np.ndarray:
    """Return which test queries certify, a mask: those of a seeded half of each fold's groups."""
    certifies = np.zeros(len(test.rows), dtype=bool)
    for fold in np.unique(test.folds).tolist():
        mine = test.folds == fold
        groups = np.random.default_rng(test.seed).permutation(np.unique(test.groups[mine]))
        certifies[mine] = np.isin(test.groups[mine], groups[: -(-len(groups) // 2)])
    return certifies


def _by_fold(study: Study, p: Sequence[np.ndarray]) -> Iterator[tuple[int, HeldOut, np.ndarray]]:
    """Yield each fold's complete test queries, at the costs expected of them, with P(correct).

    Without prices nobody is cheaper: every tolerance asks the likeliest target.
    """
    _, test = held_out(study).complete()
    for fold in np.unique(test.folds).tolist():
        at = test.take(test.folds == fold)
        cost = study.expected_costs(fold)[at.rows] if study.has_costs else 0 * at.correct
        yield fold, replace(at, cost=cost, best_single=study.best_single[fold]), p[fold][at.rows]


def evaluate_labels_needed(
    study: Study, p: Sequence[np.ndarray], losses: Sequence[float] = LOSSES, repetitions: int = 20
) -> pd.DataFrame:
    """Say how many held-out labels a promise takes: fewer are drawn, again and again.

    Parameters
    ----------
    study, p, losses
        As for `evaluate_guarantee`.
    repetitions : int, default 20
        Draws of each share of a fold's test groups but the whole.

    Returns
    -------
    pandas.DataFrame
        For each loss (`router`) and number of labels (`x`), over draws and folds: `CERTIFIED`, with
        an interval that covers the drawing alone (Clopper and Pearson; none where all are taken),
        and, where costs are known, `MEDIAN_TAU` of the draws in which one was, with the least and
        the largest over folds. `n` counts draws.
    """
    settings = {"repetitions": repetitions, "taus": TAUS if study.has_costs else (0.0,)}
    tables = [labels_needed(at, q, losses, **settings) for _, at, q in _by_fold(study, p)]
    rows = []
    for place, lines in pd.concat(tables).groupby(level=0):
        is_whole = SHARES[place % len(SHARES)] == 1
        n = len(lines) * (1 if is_whole else repetitions)
        of = {"router": allowed(lines["max_loss"].iloc[0]), "x": round(lines["queries"].mean())}
        drawn = binomtest(round(lines["certified"].mean() * n), n)
        bounds = (np.nan, np.nan) if is_whole else drawn.proportion_ci(0.95, "exact")
        found, taus = {CERTIFIED: (drawn.statistic, *bounds)}, lines["tau"].dropna()
        if study.has_costs and len(taus):
            found[MEDIAN_TAU] = taus.median(), taus.min(), taus.max()
        for metric, (value, low, high) in found.items():
            bounds = {"estimate": value, "lower": low, "upper": high}
            rows.append(vars(Quantity(metric, **of, n=n)) | bounds)
    # where there are few groups, two shares may be as many
    return results(rows).drop_duplicates(["metric", "router", "x"], ignore_index=True)


def labels_needed(
    at: Evaluation,
    p: np.ndarray,
    max_losses: Sequence[float] = LOSSES,
    shares: Sequence[float] = SHARES,
    repetitions: int = 20,
    taus: Sequence[float] = TAUS,
) -> pd.DataFrame:
    """Say how many held-out labels a guarantee takes on a pool, by drawing fewer of them.

    Parameters
    ----------
    at : Evaluation
        N held-out queries, at the costs expected of them; the best single target is a number. Its
        seed draws groups.
    p : ndarray of shape (N, K)
        Calibrated P(correct).
    max_losses : sequence of float
    shares : sequence of float
        Shares of the groups that are drawn.
    repetitions : int, default 20
        Draws of each share but the whole.
    taus : sequence of float
        As for `certify`.

    Returns
    -------
    pandas.DataFrame
        A row for each loss and share, every loss on the same draws: ``max_loss``, ``groups``,
        ``queries`` (mean over draws), ``certified`` (share of the draws in which a tolerance was),
        ``tau`` (its median over those), ``accuracy`` and ``cost`` (of that tau, on all the queries;
        NaN where there is none).
    """
    rows, at = at.complete()
    p, codes, rng = np.asarray(p)[rows], at.group_codes, np.random.default_rng(at.seed)
    n_groups, draws, table = codes.max() + 1, {}, []
    sizes = [max(1, round(share * n_groups)) for share in shares]
    for size in sizes:
        times = range(repetitions if size < n_groups else 1)
        draws[size] = [np.isin(codes, rng.permutation(n_groups)[:size]) for _ in times]
    for max_loss, size in product(max_losses, sizes):
        how = {"max_loss": max_loss, "taus": taus}
        promises = [certify(at.take(drawn), p[drawn], **how) for drawn in draws[size]]
        certified = pd.Series([promise.tau for promise in promises], dtype=float)
        n, tau = np.mean([promise.n for promise in promises]), certified.median()
        row = {"max_loss": max_loss, "groups": size, "queries": round(n)}
        row |= {"certified": certified.notna().mean(), "tau": tau}
        row |= {"accuracy": np.nan, "cost": np.nan}
        if certified.notna().any():
            cells = np.arange(len(p)), policy.tolerance(p, at.cost, tau)
            row |= {"accuracy": at.correct[cells].mean(), "cost": at.cost[cells].mean()}
        table.append(row)
    return pd.DataFrame(table)
