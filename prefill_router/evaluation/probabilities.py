"""How well predicted probabilities rank, and how well they are calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefill_router.evaluation import metrics
from prefill_router.evaluation.bootstrap import auc_intervals, intervals
from prefill_router.evaluation.choices import check_names, differences_of
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.progress import track


def evaluate_probabilities(
    p: Mapping[str, np.ndarray],
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    folds: np.ndarray | None = None,
    primary: str | None = None,
    split: str = "test",
    n_resamples: int = 500,
    seed: int = 0,
) -> list[Estimate]:
    """Evaluate how well predicted probabilities rank and how well they are calibrated.

    Parameters
    ----------
    p : mapping of router -> (N, K) array
        Predicted P(correct).
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked.
    folds : (N,) array, optional
        Which fold's model predicted each row. AUC compares rows of the same fold alone: models of
        different folds differ in level, which is no failure to rank.
    groups, targets, primary, split, n_resamples, seed
        As in `choices.evaluate_choices`.

    Returns
    -------
    list of Estimate
        For each router AUC, Brier score and ECE (15 equal-mass bins), for each target and, with an
        empty `target`, averaged over targets; with `primary`, the difference of the averaged AUC.

    Notes
    -----
    The bins of the ECE are fixed on the given rows. Resampling adds noise to each bin, which only
    ever adds to an absolute value; its interval is shifted back by that bias.
    """
    check_names(p, primary)
    correct = np.asarray(correct, dtype=np.float64)
    seen = ~np.isnan(correct)
    counts = [*seen.sum(axis=0).tolist(), int(seen.any(axis=1).sum())]
    p = {name: np.asarray(values, dtype=np.float64) for name, values in p.items()}
    minus, pairs = differences_of([(name, "") for name in p], primary)
    labels = [(name, target) for name in p for target in [*targets, ""]]

    def areas(by_column: np.ndarray) -> np.ndarray:
        by_router = _with_macro(by_column.reshape(len(by_column), len(p), -1))
        differences = minus(by_router[:, :, -1])
        return np.hstack([by_router.reshape(len(by_column), -1), differences])

    scores, repeated = np.hstack(list(p.values())), np.tile(correct, (1, len(p)))
    found = auc_intervals(scores, repeated, groups, areas, n_resamples, seed, folds)
    result = rows_of("AUC", labels, found[: len(labels)], split, counts * len(p))
    result += rows_of("AUC difference", pairs, found[len(labels) :], split, counts[-1])
    for name, values in track(p.items(), "calibration"):
        labels = [(name, target) for target in [*targets, ""]]
        squares, bins = (values - correct) ** 2, _bin_columns(values, correct)
        for metric, columns, statistic, centred in (
            ("Brier", squares, _with_macro, False),
            ("ECE", bins, _ece_from_bins, True),
        ):
            found = intervals(columns, groups, statistic, n_resamples, seed, centred)
            result += rows_of(metric, labels, found, split, counts)
    return result


def _with_macro(values: np.ndarray) -> np.ndarray:
    """Append the average over targets to metrics by target (..., K)."""
    return np.concatenate([values, metrics.macro(values)[..., None]], axis=-1)


def _bin_columns(p: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return p - correct spread over one column a target and bin, (N, K * N_BINS)."""
    columns = np.zeros((*p.shape, metrics.N_BINS))
    for k in range(p.shape[1]):
        seen = np.flatnonzero(~np.isnan(correct[:, k]))
        columns[np.isnan(correct[:, k]), k] = np.nan
        columns[seen, k, metrics.equal_mass_bins(p[seen, k])] = (p - correct)[seen, k]
    return columns.reshape(len(p), -1)


def _ece_from_bins(means: np.ndarray) -> np.ndarray:
    bins = np.abs(means).reshape(len(means), -1, metrics.N_BINS)
    return _with_macro(bins.sum(axis=-1))
