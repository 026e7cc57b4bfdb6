"""Routers side by side over a study's folds: policy chosen on validation, results on test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation import comparison
from prefill_router.evaluation.bootstrap import FEW, few
from prefill_router.evaluation.comparison import Pairs
from prefill_router.evaluation.tuning import choose_parameter
from prefill_router.experiments.routers import predictions
from prefill_router.experiments.study import Study

RANDOM, DEAREST, CHEAPEST = "random", "always dearest", "always cheapest"


@dataclass(frozen=True)
class HeldOut:
    """Rows held out by the folds of a study, n of them.

    Attributes
    ----------
    rows : ndarray of int, shape (n,)
        Rows of the label matrix; several folds may validate on the same one.
    folds : ndarray of int, shape (n,)
        The fold that holds each out.
    split : str, default "test"
        What results call these rows.
    """

    rows: np.ndarray
    folds: np.ndarray
    split: str = "test"

    def join(self, by_fold: Sequence[np.ndarray]) -> np.ndarray:
        """Return what each row's own fold says of it, (n, ...), given all N rows by each fold."""
        return np.stack(by_fold)[self.folds, self.rows]


def held_out(study: Study, split: str = "test") -> HeldOut:
    """Return the test rows of all folds, in the order of `test_rows`, or the validation rows."""
    if split == "test":
        return HeldOut(study.test_rows, study.test_folds)
    rows = [getattr(each, split) for each in study.splits]
    folds = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    return HeldOut(np.concatenate(rows), folds, split)


@dataclass(frozen=True)
class Routed:
    """What a router does with the study's test queries (n of them, in the order of `test_rows`).

    Attributes
    ----------
    p : ndarray of shape (n, K)
        Predicted P(correct).
    choice : ndarray of int, shape (n,)
        The target asked by the policy most accurate on validation.
    frugal : ndarray of int, shape (n,)
        The target asked by the cheapest policy that is on validation as accurate as the best
        single target.
    tau : list of float
        The tolerance of `choice` in each fold; 0 where there are no costs (argmax).
    """

    p: np.ndarray
    choice: np.ndarray
    frugal: np.ndarray
    tau: list[float]


def route(study: Study, router: str) -> Routed:
    """Apply a router to the study's test queries."""
    return apply_policies(study, predictions(study, router))


def apply_policies(study: Study, by_fold: Sequence[np.ndarray]) -> Routed:
    """Choose policies on validation rows, and apply them to the study's test queries.

    `by_fold` holds P(correct), (N, K), in each fold: NaN on its training rows.
    """
    chosen = [choose_targets(study, fold, p) for fold, p in enumerate(by_fold)]
    choices, frugal, taus = zip(*chosen, strict=True)
    join = study.over_folds
    return Routed(join(by_fold), join(choices), join(frugal), list(taus))


def choose_targets(study: Study, fold: int, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Choose policies on a fold's validation rows, and apply them wherever there are predictions.

    Parameters
    ----------
    study : Study
    fold : int
    p : ndarray of shape (N, K)
        P(correct); rows with NaN are not routed.

    Returns
    -------
    choice, frugal : ndarrays of int, shape (N,)
        As in `Routed`; 0 where there are no predictions.
    tau : float
        The tolerance of `choice`, 0 where there are no costs.
    """
    known, v = ~np.isnan(p).any(axis=1), study.splits[fold].validation
    rows = np.zeros((2, len(p)), dtype=int)
    if not study.has_costs:
        rows[:, known] = policy.argmax(p[known])
        return *rows, 0.0
    cost, Y = study.expected_costs(fold), study.labels.correct
    best = choose_parameter(p[v], Y[v], cost[v])
    frugal = choose_parameter(p[v], Y[v], cost[v], as_accurate_as=study.best_single[fold])
    for row, tau in zip(rows, (best, frugal), strict=True):
        row[known] = policy.tolerance(p[known], cost[known], tau)
    return *rows, best


def choose_by_fold(
    study: Study, choose: Callable[[int, np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return choices for the test queries, (n,), in the order of `test_rows`.

    `choose` maps a fold, its validation rows and its test rows to the latter's choices.
    """
    chosen = np.empty(study.labels.n_queries, dtype=int)
    for fold, split in enumerate(study.splits):
        chosen[split.test] = choose(fold, split.validation, split.test)
    return chosen[study.test_rows]


def test_labels(study: Study) -> np.ndarray:
    """Return the labels of the test queries, (n, K)."""
    return study.labels.correct[study.test_rows]


def best_single(study: Study) -> np.ndarray:
    """Return each test query's best single target, (n,): its fold's, by training accuracy."""
    return np.array(study.best_single)[study.test_folds]


def resampling(study: Study, most: int | None = None) -> dict[str, int]:
    """Return the `n_resamples`, `most` or fewer, and the `seed` of a study's bootstrap."""
    p = study.parameters
    return {"n_resamples": min(p.n_resamples, most or p.n_resamples), "seed": p.seed}


def choice_results(
    study: Study,
    choices: Mapping[str, np.ndarray],
    pairs: Pairs = (),
    at: HeldOut | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Evaluate choices (n,) on held-out rows, by default of test, with `pairs` subtracted.

    Costs are what the answers really cost. `settings` are other parameters of
    `prefill_router.evaluation.comparison.compare_choices`, or values in place of the study's.
    """
    at = at or held_out(study)
    known = {
        "correct": study.labels.correct[at.rows],
        "cost": study.costs[at.rows] if study.has_costs and "cost" not in settings else None,
        "best_single": np.array(study.best_single)[at.folds],
        "targets": study.labels.targets,
        "groups": study.labels.group[at.rows],
        "split": at.split,
    }
    settings = known | resampling(study) | settings
    return comparison.compare_choices(choices, pairs=pairs, **settings)


def probability_results(
    study: Study,
    p: Mapping[str, np.ndarray],
    pairs: Pairs = (),
    only: Sequence[str] = ("AUC", "Brier", "ECE"),
    at: HeldOut | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Evaluate P(correct), (n, K), of held-out rows likewise; AUC compares rows within a fold.

    `settings` are as those of `choice_results`, of `compare_probabilities`.
    """
    at = at or held_out(study)
    known = {
        "correct": study.labels.correct[at.rows],
        "targets": study.labels.targets,
        "groups": study.labels.group[at.rows],
        "folds": at.folds,
        "split": at.split,
    }
    settings = known | resampling(study, FEW) | settings
    return comparison.compare_probabilities(p, pairs=pairs, only=only, **settings)


def random_choice(study: Study) -> np.ndarray:
    """Return a target drawn evenly for each test query, (n,)."""
    rng = np.random.default_rng(study.parameters.seed)
    return rng.integers(study.labels.n_targets, size=len(study.test_rows))


def reference_choices(study: Study) -> dict[str, np.ndarray]:
    """Return what policies that read nothing choose for the test queries, (n,) each.

    "random", and where there are costs "always dearest" and "always cheapest": the target whose
    expected cost, on average over the fold's training queries, is highest or lowest.
    """
    choices = {RANDOM: random_choice(study)}
    if study.has_costs:
        costs = [
            study.expected_costs(fold)[split.train].mean(axis=0)
            for fold, split in enumerate(study.splits)
        ]
        for name, extreme in ((DEAREST, np.argmax), (CHEAPEST, np.argmin)):
            choices[name] = np.array([extreme(cost) for cost in costs])[study.test_folds]
    return choices


def compare_predictions(
    study: Study,
    p: Mapping[str, Sequence[np.ndarray]],
    pairs: Pairs = (),
    split: str = "test",
    n_resamples: int | None = None,
) -> pd.DataFrame:
    """Compare P(correct), and the choices made by it, on one part of every fold.

    Parameters
    ----------
    study : Study
    p : mapping of router -> list of (N, K) arrays
        P(correct) in each fold.
    pairs : sequence of (router, versus)
        Whose differences are wanted.
    split : {"test", "validation"}
        The part. Policies are chosen on validation rows: gaps closed there are somewhat too good.
    n_resamples : int, default the study's

    Returns
    -------
    pandas.DataFrame
        Results: gap closed, AUC and Brier score of each router and pair.
    """
    n_resamples, at = n_resamples or study.parameters.n_resamples, held_out(study, split)
    choices = {
        name: at.join([choose_targets(study, fold, q)[0] for fold, q in enumerate(by_fold)])
        for name, by_fold in p.items()
    }
    only = {"cost": None, "targets": (), "n_resamples": n_resamples}
    chosen = choice_results(study, choices, pairs, at, **only)
    joined = {name: at.join(by_fold) for name, by_fold in p.items()}
    settings = {"at": at, "n_resamples": few(n_resamples)}
    predicted = probability_results(study, joined, pairs, ("AUC", "Brier"), **settings)
    kept = chosen["metric"].eq("gap closed") & chosen["router"].isin(list(p))
    return pd.concat([chosen[kept], predicted], ignore_index=True)
