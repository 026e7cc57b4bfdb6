"""Can a study's probabilities be believed, and is the rest answered well if some are not asked?"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import FEW
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import Quantity
from prefill_router.evaluation.tuning import fit_abstention
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.study import Study
from prefill_router.metrics import equal_mass_bins

BEFORE, AFTER = "uncalibrated", "calibrated"
PREDICTED, OBSERVED = "mean prediction", "share right"
ANSWERED, AMONG_ANSWERED = "share answered", "accuracy of answered"
LEVELS = (0.6, 0.7, 0.8, 0.9)
"""Accuracies wanted among the queries that are answered."""


def evaluate_calibration(
    study: Study, raw: Sequence[np.ndarray], p: Sequence[np.ndarray]
) -> pd.DataFrame:
    """Say how far predicted probabilities are from shares of right answers on test queries.

    Parameters
    ----------
    study : Study
    raw, p : sequences of ndarrays of shape (N, K)
        P(correct) in each fold, before and after the recipe's calibration on validation rows.

    Returns
    -------
    pandas.DataFrame
        "Brier" and "ECE" of `BEFORE` and `AFTER`, and of the second versus the first, for each
        target and averaged; and for each of 15 bins (`x`, from 1), of all targets together, its
        `PREDICTED` and `OBSERVED`.
    """
    at = held_out(study)
    both = {BEFORE: at.join(raw), AFTER: at.join(p)}
    found = [at.probabilities(both, [(AFTER, BEFORE)], ["Brier", "ECE"])]
    labelled = ~np.isnan(at.correct)
    groups = np.repeat(at.groups, labelled.sum(axis=1))
    how = {"split": at.split, "n_resamples": at.n_resamples, "seed": at.seed}
    answers = Evaluation(at.correct[labelled][:, None], groups=groups, **how)
    for name, values in both.items():
        predicted, right = values[labelled], at.correct[labelled]
        bins = equal_mass_bins(predicted)
        used, counts = np.unique(bins, return_counts=True)
        inside = np.where(bins[:, None] == used, 1.0, np.nan)
        columns = {PREDICTED: inside * predicted[:, None], OBSERVED: inside * right[:, None]}
        places = list(enumerate(counts.tolist(), 1))
        quantities = {
            tuple(Quantity(m, name, x=x, n=n) for x, n in places): itemgetter(m) for m in columns
        }
        found.append(answers.estimate(columns, quantities, FEW))
    return pd.concat(found, ignore_index=True)


def evaluate_abstention(
    study: Study, p: Sequence[np.ndarray], levels: Sequence[float] = LEVELS
) -> pd.DataFrame:
    """Say how many test queries are answered, and how well, if nobody is asked the hopeless ones.

    Parameters
    ----------
    study : Study
    p : sequence of ndarrays of shape (N, K)
        Calibrated P(correct) in each fold.
    levels : sequence of float
        Accuracies wanted, for each of which a fold's threshold is fitted on validation queries. A
        fold whose validation queries do not reach one answers nothing.

    Returns
    -------
    pandas.DataFrame
        For each level (`x`) `ANSWERED` and `AMONG_ANSWERED` (of as many queries as are answered),
        asking the likeliest target. Where nothing is answered, that accuracy is undefined.
    """
    (_, kept), found = held_out(study).complete(), []
    for level in levels:
        asked = np.empty(study.labels.n_queries, dtype=int)
        for q, split in zip(p, study.splits, strict=True):
            v, t = split.validation, split.test
            try:
                threshold = fit_abstention(q[v], study.labels.correct[v], level)
            except InputError:  # no threshold reaches the level there
                threshold = np.inf
            asked[t] = policy.abstain(q[t], threshold)
        asked = asked[kept.rows]
        answered = asked != policy.NOBODY
        right = np.where(answered, kept.correct[np.arange(len(asked)), asked], np.nan)
        counts = {ANSWERED: len(asked), AMONG_ANSWERED: int(answered.sum())}
        of = {Quantity(m, PRIMARY, x=level, n=n): itemgetter(m) for m, n in counts.items()}
        found.append(kept.estimate({ANSWERED: answered, AMONG_ANSWERED: right}, of))
    return pd.concat(found, ignore_index=True)
