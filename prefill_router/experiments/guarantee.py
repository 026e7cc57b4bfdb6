"""What a study's held-out labels allow to promise, and whether the promise is kept.

The test queries of each fold are halved by groups: one half certifies a tolerance for that fold's
router, the other reports what it does. No label is on both sides, and none of either chose layers,
trained or calibrated that router. Folds are certified one by one: each has a router of its own, and
what tests one has trained another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import BEST, SAVING_AGAINST_BEST
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.evaluation.tuning import fit_abstention
from prefill_router.experiments.comparison import HeldOut, held_out
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.study import Study
from prefill_router.router.guarantee import TAUS, certify

LOSSES = (0.01, 0.02, 0.05)
"""Losses of accuracy that may be allowed."""
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of a fold's test groups that are drawn to see how many labels a promise takes."""
LEVELS = (0.6, 0.7, 0.8, 0.9)
"""Accuracies wanted among the queries that are answered."""
CERTIFYING, REPORTING = "test, certifying half", "test, reporting half"
TAU = "certified tau"
CERTIFIED, MEDIAN_TAU = "share certified", "median certified tau"
ANSWERED, AMONG_ANSWERED = "share answered", "accuracy of answered"


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
        `TAU`, undefined where nothing is certified. For each loss, on the `REPORTING` half of all
        folds, the accuracy and saving of the certified tolerances, against the best single
        target's, each group counting once as in the certificate; where there is none, that target
        is asked.
    """
    _, test = held_out(study).complete()
    rows, reporting, asked = [], [], {allowed(loss): [] for loss in losses}
    for fold, (at, q) in enumerate(folds(study, p)):
        first = first_half(at)
        reporting.append(np.flatnonzero(test.folds == fold)[~first])
        for loss in losses:
            promise = certify(at.take(first), q[first], max_loss=loss, taus=tolerances(study))
            tau = np.nan if promise.tau is None else promise.tau
            of = Quantity(TAU, allowed(loss), x=fold + 1, split=CERTIFYING, n=promise.n)
            rows.append(counted(of, tau))
            chosen = np.full(len(q), at.best_single)
            if promise.tau is not None:
                chosen = policy.tolerance(q, at.cost, promise.tau)
            asked[allowed(loss)].append(chosen[~first])
    rest = replace(test.take(np.concatenate(reporting)), split=REPORTING)
    chosen = {name: np.concatenate(parts) for name, parts in asked.items()}
    found = rest.choices(chosen, [(name, BEST) for name in chosen], each_group_once=True)
    wanted = {"router": list(chosen), "metric": ["accuracy", SAVING_AGAINST_BEST]}
    return pd.concat([results(rows), select(found, versus=None, **wanted)], ignore_index=True)


def folds(study: Study, p: Sequence[np.ndarray]) -> Iterator[tuple[HeldOut, np.ndarray]]:
    """Yield each fold's complete test queries, at the costs expected of them, with P(correct).

    Without prices nobody is cheaper: every tolerance asks the likeliest target.
    """
    _, test = held_out(study).complete()
    for fold, best in enumerate(study.best_single):
        at = test.take(test.folds == fold)
        cost = study.expected_costs(fold)[at.rows] if study.has_costs else 0 * at.correct
        yield replace(at, cost=cost, best_single=best), p[fold][at.rows]


def tolerances(study: Study) -> Sequence[float]:
    """Return the tolerances that are tried: without costs, they all choose as the first."""
    return TAUS if study.has_costs else TAUS[:1]


def first_half(at: HeldOut) -> np.ndarray:
    """Return which queries certify, a mask: those of a seeded half of the groups."""
    codes = at.group_codes
    order = np.random.default_rng(at.seed).permutation(codes.max() + 1)
    return np.isin(codes, order[: -(-len(order) // 2)])


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
        For each loss (`router`) and mean number of labels (`x`), over draws and folds: `CERTIFIED`,
        with an interval that covers the drawing alone (Clopper and Pearson; none where all are
        taken), and, where costs are known, `MEDIAN_TAU` of the draws in which one was, with
        quartiles. `n` counts draws.
    """
    rng, draws, rows = np.random.default_rng(study.parameters.seed), [], []
    for at, q in folds(study, p):
        codes = at.group_codes
        n_groups = codes.max() + 1
        for share in SHARES:
            size = max(1, round(share * n_groups))
            for _ in range(repetitions if size < n_groups else 1):
                drawn = np.isin(codes, rng.permutation(n_groups)[:size])
                for loss in losses:
                    how = {"max_loss": loss, "taus": tolerances(study)}
                    tau = certify(at.take(drawn), q[drawn], **how).tau
                    draws.append({"loss": loss, "share": share, "n": drawn.sum(), "tau": tau})
    table = pd.DataFrame(draws).astype(float)
    for (loss, share), drawn in table.groupby(["loss", "share"]):
        n, taus = len(drawn), drawn["tau"].dropna()
        test = binomtest(len(taus), n)
        bounds = test.proportion_ci(0.95, "exact") if share < 1 else (np.nan, np.nan)
        found = {CERTIFIED: (test.statistic, *bounds)}
        if study.has_costs and len(taus):
            found[MEDIAN_TAU] = taus.quantile([0.5, 0.25, 0.75])
        of = {"router": allowed(loss), "x": round(drawn["n"].mean()), "n": n}
        for metric, values in found.items():
            interval = zip(("estimate", "lower", "upper"), values, strict=True)
            rows.append(vars(Quantity(metric, **of)) | dict(interval))
    # where there are few groups, two shares may be as many
    return results(rows).drop_duplicates(["metric", "router", "x"], ignore_index=True)


def evaluate_abstention(
    study: Study, p: Sequence[np.ndarray], levels: Sequence[float] = LEVELS
) -> pd.DataFrame:
    """Say how many test queries are answered, and how well, if nobody is asked the hopeless ones.

    Parameters
    ----------
    study, p
        As for `evaluate_guarantee`.
    levels : sequence of float
        Accuracies wanted, for each of which a fold's threshold is fitted on validation queries. A
        fold whose validation queries do not reach one answers nothing.

    Returns
    -------
    pandas.DataFrame
        For each level (`x`) `ANSWERED` and `AMONG_ANSWERED` (of as many queries as are answered),
        asking the likeliest target. Where nothing is answered, that accuracy is undefined.
    """
    _, test = held_out(study).complete()
    found, queries = [], np.arange(len(test.rows))
    for level in levels:
        by_fold = []
        for q, split in zip(p, study.splits, strict=True):
            try:
                held = split.validation
                threshold = fit_abstention(q[held], study.labels.correct[held], level)
            except InputError:  # no threshold reaches the level there
                threshold = np.inf
            by_fold.append(policy.abstain(np.nan_to_num(q), threshold))
        asked = test.join(by_fold)
        answered = asked != policy.NOBODY
        right = np.where(answered, test.correct[queries, asked], np.nan)
        counts = {ANSWERED: len(asked), AMONG_ANSWERED: int(answered.sum())}
        of = {Quantity(m, PRIMARY, x=level, n=n): itemgetter(m) for m, n in counts.items()}
        found.append(test.estimate({ANSWERED: answered, AMONG_ANSWERED: right}, of))
    return pd.concat(found, ignore_index=True)
