"""What a test set can tell: p-values over many comparisons, power, and what seeds add."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.bootstrap import p_values
from prefill_router.evaluation.complete import complete

ALPHA = 0.05
"""Level of two-sided tests, of several ones after correction."""
POWER = 0.8
"""Probability with which a detectable difference is found."""


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for their number by Holm's step-down method.

    Parameters
    ----------
    p : (M,) array
        p-values of M hypotheses, dependent or not.

    Returns
    -------
    (M,) array
        Rejecting those at most alpha makes any false rejection no likelier than alpha.

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics, 1979.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, stepped)
    return adjusted


def standard_error(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the standard error of a mean whose rows are drawn in groups.

    Parameters
    ----------
    values : (N,) array
    groups : (N,) array, optional
        Rows that share a value are drawn together. Default: each row by itself.

    Returns
    -------
    float
        The cluster-robust one: the root of G / (G - 1) times the sum over the G groups of their
        squared sums of deviations from the mean, divided by N. The bootstrap of `intervals` has
        this spread in the limit.

    Raises
    ------
    InputError
        If there are fewer than two groups.
    """
    values = np.asarray(values, dtype=np.float64)
    groups = np.arange(len(values)) if groups is None else groups
    codes = np.unique(groups, return_inverse=True)[1]
    n_groups = len(np.unique(codes))
    if n_groups < 2:
        raise InputError("The spread of a mean needs at least two groups of queries.")
    sums = np.bincount(codes, weights=values - values.mean())
    return float(np.sqrt(n_groups / (n_groups - 1) * (sums**2).sum()) / len(values))


def minimal_detectable_difference(
    values_a: np.ndarray,
    values_b: np.ndarray,
    groups: np.ndarray | None = None,
) -> float:
    """Return the difference of means that such a paired comparison finds with `POWER`.

    Parameters
    ----------
    values_a, values_b : (N,) arrays
        Of two routers on the same queries, for instance 1 where they answer correctly, else 0.
    groups : (N,) array, optional
        As in `standard_error`.

    Returns
    -------
    float
        (z(1 - `ALPHA` / 2) + z(`POWER`)) times the standard error of the mean difference, in units
        of the values. Divided by the headroom, that of accuracies becomes one of gap closed.

    Raises
    ------
    InputError
        If the arrays differ in length.
    """
    values_a, values_b = np.asarray(values_a, dtype=float), np.asarray(values_b, dtype=float)
    if values_a.shape != values_b.shape:
        raise InputError(f"Values {values_a.shape} and {values_b.shape} must be of the same rows.")
    error = standard_error(values_a - values_b, groups)
    return float((norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)) * error)


def seed_deviation(by_seed: Sequence[np.ndarray], metric: Callable[[np.ndarray], float]) -> float:
    """Return the standard deviation of a metric between seeds, on the same queries.

    Parameters
    ----------
    by_seed : sequence of (N, K) arrays
        P(correct) of the same model trained with different seeds.
    metric : callable
        Maps such an array to a number.

    Returns
    -------
    float
        With one degree of freedom fewer than seeds. A result on one seed has, beside the
        bootstrap's standard error over queries, this one; both add as squares.

    Raises
    ------
    InputError
        If there are fewer than two seeds.
    """
    if len(by_seed) < 2:
        raise InputError(f"A spread between seeds needs at least two of them, not {len(by_seed)}.")
    return float(np.std([metric(p) for p in by_seed], ddof=1))


def evaluate_significance(
    choices: Mapping[str, np.ndarray],
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    primary: str,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test one router's accuracy against every other's, paired, corrected for their number.

    Parameters
    ----------
    choices : mapping of router -> (N,) int array
        The target each router asks for each query.
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    groups : (N,) array, optional
        Queries drawn together by the bootstrap.
    primary : str
        The router compared with all others in `choices`.
    n_resamples : int, default 10000
    seed : int, default 0

    Returns
    -------
    pandas.DataFrame
        A row for each other router: ``router``, ``difference`` (accuracy of the primary minus its
        own), ``p`` (two-sided, of `p_values`), ``p_holm`` and ``detectable`` (see
        `minimal_detectable_difference`). The p-values are those of gap closed too: all routers
        share the headroom it divides by, so that in every resample both differences have one sign.

    Raises
    ------
    InputError
        If the primary is unknown or alone, or no row is complete.
    """
    if primary not in choices:
        raise InputError(f"Unknown primary router {primary!r}.{did_you_mean(primary, choices)}")
    others = [name for name in choices if name != primary]
    if not others:
        raise InputError(f"{primary!r} has no other router to be compared with.")
    kept = complete(correct, groups=groups)
    rows, correct = kept.rows, kept.correct
    places = np.arange(len(correct))
    right = {name: correct[places, np.asarray(c)[rows]] for name, c in choices.items()}
    differences = np.column_stack([right[primary] - right[name] for name in others])
    p = p_values(differences, kept.groups, n_resamples, seed)
    return pd.DataFrame(
        {
            "router": others,
            "difference": differences.mean(axis=0),
            "p": p,
            "p_holm": holm(p),
            "detectable": [
                minimal_detectable_difference(right[primary], right[name], kept.groups)
                for name in others
            ],
        }
    )
