"""What a study's held-out labels allow to promise, and whether the promise is kept.

The test queries of each fold are halved by groups: one half certifies a tolerance for that fold's
router, the other reports what it does. No label is on both sides, and none of either chose layers,
trained or calibrated that router. Folds are certified one by one: each has a router of its own, and
what tests one has trained another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from prefill_router import policy
from prefill_router.evaluation.comparison import BEST, SAVING_AGAINST_BEST, Evaluation
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.study import Study
from prefill_router.router.guarantee import TAUS, certify

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


def certify_rows(
    study: Study, p: Sequence[np.ndarray], fold: int, rows: np.ndarray
) -> dict[str, Any]:
    """Return what `certify` and `labels_needed` are told of some rows of a fold.

    Without prices nobody is cheaper: every tolerance asks the likeliest target, and one is tried.
    """
    correct, priced = study.labels.correct, study.has_costs
    return {
        "p": p[fold][rows],
        "correct": correct[rows],
        "cost": study.expected_costs(fold)[rows] if priced else np.zeros(correct[rows].shape),
        "best_single": study.best_single[fold],
        "groups": study.labels.group[rows],
        "targets": study.labels.targets,
        "confidence": CONFIDENCE,
        "taus": TAUS if priced else (0.0,),
    }


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
    labels, parts = study.labels, [halves(study, fold) for fold in range(len(study.splits))]
    certified, choices = [], {}
    for loss in losses:
        chosen = choices[allowed(loss)] = np.zeros(labels.n_queries, dtype=int)
        for fold, (certifying, reporting) in enumerate(parts):
            chosen[reporting] = study.best_single[fold]
            if not len(certifying):
                continue
            promise = certify(**certify_rows(study, p, fold, certifying), max_loss=loss)
            tau = np.nan if promise.tau is None else promise.tau
            values = ((TAU, tau), (FIRST_P, promise.p_values[0]), (GROUPS, promise.n_groups))
            of = {"router": allowed(loss), "x": fold + 1, "split": CERTIFYING, "n": promise.n}
            certified += [counted(Quantity(metric, **of), value) for metric, value in values]
            if promise.tau is not None and len(reporting):
                known = certify_rows(study, p, fold, reporting)
                chosen[reporting] = policy.tolerance(known["p"], known["cost"], promise.tau)
    at = replace(held_out(study), split=REPORTING)
    at = at.take(np.isin(at.rows, np.concatenate([reporting for _, reporting in parts])))
    if not len(at.rows):
        return results(certified)
    choices = {name: chosen[at.rows] for name, chosen in choices.items()}
    pairs = [(name, BEST) for name in choices]
    reported = at.choices(choices, pairs, each_group_once=True)
    wanted = {"router": list(choices), "metric": ["accuracy", SAVING_AGAINST_BEST]}
    return pd.concat([results(certified), select(reported, versus=None, **wanted)])


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
    tables, rows = [], []
    for fold in range(len(study.splits)):
        test = np.sort(np.concatenate(halves(study, fold)))
        if len(test):
            known, seed = certify_rows(study, p, fold, test), study.parameters.seed
            tables.append(labels_needed(known, losses, SHARES, repetitions, seed))
    for place, lines in pd.concat(tables).groupby(level=0) if tables else ():
        is_whole = SHARES[place % len(SHARES)] == 1
        n = len(lines) * (1 if is_whole else repetitions)
        of = {"router": allowed(lines["max_loss"].iloc[0]), "x": round(lines["queries"].mean())}
        drawn = binomtest(round(lines["certified"].mean() * n), n)
        share, bounds = Quantity(CERTIFIED, **of, n=n), drawn.proportion_ci(0.95, "exact")
        interval = {} if is_whole else {"lower": bounds.low, "upper": bounds.high}
        rows.append(counted(share, drawn.statistic) | interval)
        taus = lines["tau"].dropna()
        if study.has_costs and len(taus):
            median = {"estimate": taus.median(), "lower": taus.min(), "upper": taus.max()}
            rows.append({"of": Quantity(MEDIAN_TAU, **of, n=n), **median})
    # where there are few groups, two shares may be as many
    return results(rows).drop_duplicates(["metric", "router", "x"], ignore_index=True)


def labels_needed(
    known: Mapping[str, Any],
    max_losses: Sequence[float] = LOSSES,
    shares: Sequence[float] = SHARES,
    repetitions: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Say how many held-out labels a guarantee takes on a pool, by drawing fewer of them.

    Parameters
    ----------
    known : mapping
        What `certify` is told, by parameter, but for `max_loss`.
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
    rows, kept = Evaluation(known["correct"], known["cost"], known.get("groups")).complete()
    p, codes = np.asarray(known["p"], dtype=np.float64)[rows], kept.group_codes
    n_groups, rng = codes.max() + 1, np.random.default_rng(seed)
    sizes = [max(1, round(share * n_groups)) for share in shares]
    draws = {
        size: [
            np.isin(codes, rng.permutation(n_groups)[:size])
            for _ in range(repetitions if size < n_groups else 1)
        ]
        for size in sizes
    }
    arrays = {"p": p, "correct": kept.correct, "cost": kept.cost, "groups": codes}
    table = []
    for max_loss, size in product(max_losses, sizes):
        promises = [
            certify(**{**known, **{k: a[drawn] for k, a in arrays.items()}}, max_loss=max_loss)
            for drawn in draws[size]
        ]
        taus = pd.Series([promise.tau for promise in promises], dtype=float)
        row = {"max_loss": max_loss, "groups": size, "certified": taus.notna().mean()}
        row |= {"queries": round(np.mean([promise.n for promise in promises]))}
        row |= {"tau": taus.median(), "accuracy": np.nan, "cost": np.nan}
        if taus.notna().any():
            at = np.arange(len(p)), policy.tolerance(p, kept.cost, row["tau"])
            row |= {"accuracy": kept.correct[at].mean(), "cost": kept.cost[at].mean()}
        table.append(row)
    columns = ["max_loss", "groups", "queries", "certified", "tau", "accuracy", "cost"]
    return pd.DataFrame(table, columns=columns)
