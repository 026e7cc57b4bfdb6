"""Can a study's probabilities be believed? Calibrated on validation, looked at on test queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation import metrics
from prefill_router.evaluation.bootstrap import few, intervals, row_intervals
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import (
    ReliabilityCurve,
    equal_mass_bins,
    expected_calibration_error,
)
from prefill_router.evaluation.tuning import fit_abstention
from prefill_router.experiments.comparison import compare_probabilities, test_labels
from prefill_router.experiments.routers import PRIMARY, calibrate, predictions
from prefill_router.experiments.study import Study

BEFORE, AFTER = "uncalibrated", "calibrated"
PREDICTED, OBSERVED = "mean prediction", "share right"
ANSWERED, AMONG_ANSWERED = "share answered", "accuracy of answered"
LEVELS = (0.6, 0.7, 0.8, 0.9)
"""Accuracies wanted among the queries that are answered."""


def calibrated_predictions(study: Study) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return SharedTrunkNet's P(correct) in each fold, before and after calibration.

    Each fold's map is fitted on its validation rows, on which no network was trained.

    Returns
    -------
    raw, p : lists of ndarrays of shape (N, K)
        NaN on the fold's training rows.
    """
    raw = predictions(study, PRIMARY, calibrated=False)
    return raw, [calibrate(study, fold, values) for fold, values in enumerate(raw)]


def evaluate_calibration(
    study: Study, raw: Sequence[np.ndarray], p: Sequence[np.ndarray]
) -> list[Estimate]:
    """Say how far predicted probabilities are from shares of right answers on test queries.

    Parameters
    ----------
    study : Study
    raw, p : sequences of ndarrays of shape (N, K)
        From `calibrated_predictions`.

    Returns
    -------
    list of Estimate
        "Brier" and "ECE" of `BEFORE` and `AFTER`, for each target and averaged; "ECE difference",
        averaged, after minus before (its bins are made anew in every resample); and for each of 15
        bins, of all targets together, its `PREDICTED` and `OBSERVED`.
    """
    both = {BEFORE: study.over_folds(raw), AFTER: study.over_folds(p)}
    correct, groups = test_labels(study), study.labels.group[study.test_rows]
    found = compare_probabilities(study, both, primary=None)
    found = [row for row in found if row.metric != "AUC"]
    settings = {
        "n_resamples": few(study.parameters.n_resamples),
        "seed": study.parameters.seed,
    }

    def error(rows: np.ndarray) -> np.ndarray:
        after, before = (
            metrics.macro(expected_calibration_error(both[name][rows], correct[rows]))
            for name in (AFTER, BEFORE)
        )
        return np.array([after - before])

    difference = row_intervals(error, len(correct), groups, centred=True, **settings)
    pair = [(f"{AFTER} - {BEFORE}", "")]
    found += rows_of("ECE difference", pair, difference, "test", len(correct))
    for name, values in both.items():
        found += _bins(name, values, correct, groups, settings)
    return found


def _bins(
    name: str, p: np.ndarray, correct: np.ndarray, groups: np.ndarray, settings: Mapping[str, int]
) -> list[Estimate]:
    labelled = ~np.isnan(correct)
    predicted, right = p[labelled], correct[labelled]
    bins = equal_mass_bins(predicted)
    used, counts = np.unique(bins, return_counts=True)
    columns = np.full((2, len(used), len(bins)), np.nan)
    for place, number in enumerate(used):
        here = bins == number
        columns[:, place, here] = predicted[here], right[here]
    repeated = np.broadcast_to(groups[:, None], p.shape)[labelled]
    found = intervals(columns.reshape(-1, len(bins)).T, repeated, **settings)
    labels = [(f"{name}, bin {place + 1}", "") for place in range(len(used))]
    parts = (PREDICTED, found[: len(used)]), (OBSERVED, found[len(used) :])
    return [
        row
        for metric, values in parts
        for row in rows_of(metric, labels, values, "test", counts.tolist())
    ]


def reliability_curves(rows: Sequence[Estimate]) -> dict[str, ReliabilityCurve]:
    """Return the curves `BEFORE` and `AFTER` from rows of `evaluate_calibration`."""
    curves = {}
    for name in (BEFORE, AFTER):
        predicted, observed = (
            [r for r in rows if r.metric == metric and r.router.startswith(f"{name}, bin ")]
            for metric in (PREDICTED, OBSERVED)
        )
        curves[name] = ReliabilityCurve(
            *(np.array([row.estimate for row in part]) for part in (predicted, observed)),
            np.array([row.n for row in observed]),
        )
    return curves


def evaluate_abstention(
    study: Study, p: Sequence[np.ndarray], levels: Sequence[float] = LEVELS
) -> list[Estimate]:
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
    list of Estimate
        `ANSWERED` and `AMONG_ANSWERED` (of as many queries as are answered) of router
        "60 % wanted" and so on, which asks the likeliest target. Where nothing is answered, its
        accuracy is undefined.
    """
    correct, found = study.labels.correct, []
    kept = complete(test_labels(study), groups=study.labels.group[study.test_rows])
    right = kept.correct
    for level in levels:
        chosen = []
        for values, split in zip(p, study.splits, strict=True):
            v, t = split.validation, split.test
            try:
                threshold = fit_abstention(values[v], correct[v], level)
            except InputError:  # no threshold reaches the level there
                threshold = np.inf
            chosen.append(np.full(len(values), policy.NOBODY))
            chosen[-1][t] = policy.abstain(values[t], threshold)
        asked = study.over_folds(chosen)[kept.rows]
        answered = asked != policy.NOBODY
        outcome = np.where(answered, right[np.arange(len(right)), asked], np.nan)
        intervals_ = intervals(
            np.column_stack([answered, outcome]),
            kept.groups,
            n_resamples=study.parameters.n_resamples,
            seed=study.parameters.seed,
        )
        label = [(wanted(level), "")]
        found += rows_of(ANSWERED, label, intervals_[:1], "test", len(asked))
        found += rows_of(AMONG_ANSWERED, label, intervals_[1:], "test", int(answered.sum()))
    return found


def wanted(level: float) -> str:
    """Name the router that abstains for an accuracy of `level`."""
    return f"{100 * level:g} % wanted"
