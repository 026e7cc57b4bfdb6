"""Routers side by side over a study's folds: policy chosen on validation, results on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.comparison import Evaluation, Pairs
from prefill_router.evaluation.results import select
from prefill_router.evaluation.tuning import choose_parameter
from prefill_router.experiments.routers import predictions
from prefill_router.experiments.study import Study

RANDOM, DEAREST, CHEAPEST = "random", "always dearest", "always cheapest"


@dataclass(frozen=True, eq=False)
class HeldOut(Evaluation):
    """An evaluation on N rows held out by the folds of a study.

    Attributes
    ----------
    rows : ndarray of int, shape (N,)
        Rows of the label matrix; several folds may validate on the same one. `folds` has the fold
        that holds each out.
    """

    rows: np.ndarray | None = None

    PER_QUERY: ClassVar = Evaluation.PER_QUERY | {"rows": 1}

    def join(self, by_fold: Sequence[np.ndarray]) -> np.ndarray:
        """Return what each row's own fold says of it, (N, ...), given all rows by each fold."""
        return np.stack(by_fold)[self.folds, self.rows]

    def likeliest(
        self, p: Mapping[str, np.ndarray], pairs: Pairs = (), only: Sequence[str] = ("AUC",)
    ) -> pd.DataFrame:
        """Return `only` these metrics of P(correct), and gap closed by asking the likeliest target.

        Means over targets, of each router and pair.
        """
        choices = {name: policy.argmax(values) for name, values in p.items()}
        found = pd.concat([self.probabilities(p, pairs, only), self.choices(choices, pairs)])
        return select(found, metric=[*only, "gap closed"], router=list(p), versus=None)


def held_out(study: Study, split: str = "test") -> HeldOut:
    """Return the evaluation on the test rows of all folds, in the order of `test_rows`.

    Or on their validation rows, fold by fold. Costs are what the answers really cost.
    """
    rows, folds = study.test_rows, study.test_folds
    if split != "test":
        parts = [getattr(each, split) for each in study.splits]
        rows, folds = np.concatenate(parts), np.repeat(range(len(parts)), list(map(len, parts)))
    labels, p = study.labels, study.parameters
    correct, groups, best = labels.correct[rows], labels.group[rows], np.array(study.best_single)
    cost = study.costs[rows] if study.has_costs else None
    known = (correct, cost, groups, best[folds], labels.targets, folds)
    return HeldOut(*known, split, p.n_resamples, p.seed, rows)


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
    """

    p: np.ndarray
    choice: np.ndarray
    frugal: np.ndarray


def route(study: Study, router: str) -> Routed:
    """Choose policies on validation rows, and apply them to the study's test queries."""
    by_fold, join = predictions(study, router), held_out(study).join
    choices = [choose_targets(study, fold, p) for fold, p in enumerate(by_fold)]
    return Routed(join(by_fold), *(join(chosen) for chosen in zip(*choices, strict=True)))


def choose_targets(
    study: Study, fold: int, p: np.ndarray, cost: np.ndarray | None = None
) -> np.ndarray:
    """Choose policies on a fold's validation rows, and apply them to all rows.

    Parameters
    ----------
    study : Study
    fold : int
    p : ndarray of shape (N, K)
        P(correct); NaN, as on training rows, counts as 0.
    cost : ndarray of shape (N, K), optional
        What is expected of asking. Default: the study's expected costs.

    Returns
    -------
    ndarray of int, shape (2, N)
        `choice` and `frugal` as in `Routed`.
    """
    p, v = np.nan_to_num(p), study.splits[fold].validation
    if not study.has_costs:
        return np.array([policy.argmax(p)] * 2)
    cost = study.expected_costs(fold) if cost is None else cost
    known = p[v], study.labels.correct[v], cost[v]
    best = choose_parameter(*known)
    frugal = choose_parameter(*known, as_accurate_as=study.best_single[fold])
    return np.array([policy.tolerance(p, cost, tau) for tau in (best, frugal)])


def reference_choices(study: Study) -> dict[str, np.ndarray]:
    """Return what policies that read nothing choose for the test queries, (n,) each.

    "random", a target drawn evenly; and where there are costs "always dearest" and "always
    cheapest", whose expected cost, on average over the fold's training queries, is highest or
    lowest.
    """
    rng = np.random.default_rng(study.parameters.seed)
    choices = {RANDOM: rng.integers(study.labels.n_targets, size=len(study.test_rows))}
    if study.has_costs:
        costs = [
            study.expected_costs(fold)[split.train].mean(axis=0)
            for fold, split in enumerate(study.splits)
        ]
        for name, extreme in ((DEAREST, np.argmax), (CHEAPEST, np.argmin)):
            choices[name] = np.array([extreme(cost) for cost in costs])[study.test_folds]
    return choices
