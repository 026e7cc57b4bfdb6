"""What a test set can tell: p-values over many comparisons, power, and what seeds add."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import p_values
from prefill_router.evaluation.comparison import against
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.results import Quantity, counted, results

ALPHA = 0.05
"""Level of two-sided tests, of several ones after correction."""
POWER = 0.8
"""Probability with which a detectable difference is found."""
P_VALUE, HOLM, DETECTABLE = "p-value", "p-value (Holm)", "detectable difference"


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


def compare_significance(
    choices: Mapping[str, np.ndarray],
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    primary: str,
    split: str = "test",
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test one router's accuracy against every other's, paired, corrected for their number.

    Parameters
    ----------
    choices, correct, groups, split, seed
        As for `prefill_router.evaluation.comparison.compare_choices`.
    primary : str
        The router compared with all others in `choices`.
    n_resamples : int, default 10000
        Few could reject nothing after Holm's correction.

    Returns
    -------
    pandas.DataFrame
        Results of the primary versus each other router, none with an interval: the two-sided
        "p-value" of `p_values`, "p-value (Holm)", and "detectable difference" of accuracies, see
        `minimal_detectable_difference`. The p-values are those of gap closed too: all routers
        share the headroom it divides by, so that in every resample both differences have one sign.

    Raises
    ------
    InputError
        If the primary is unknown or alone, or no row is complete.
    """
    others = [name for _, name in against(primary, choices)]
    if not others:
        raise InputError(f"{primary!r} has no other router to be compared with.")
    kept = complete(correct, groups=groups)
    n = np.arange(len(kept.correct))
    right = {name: kept.correct[n, np.asarray(c)[kept.rows]] for name, c in choices.items()}
    differences = np.column_stack([right[primary] - right[name] for name in others])
    p = p_values(differences, kept.groups, n_resamples, seed)
    found = {
        P_VALUE: p,
        HOLM: holm(p),
        DETECTABLE: [
            minimal_detectable_difference(right[primary], right[name], kept.groups)
            for name in others
        ],
    }
    return results(
        counted(Quantity(metric, primary, name, split=split, n=len(n)), value)
        for metric, values in found.items()
        for name, value in zip(others, values, strict=True)
    )
