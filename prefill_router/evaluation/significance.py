"""What a test set can tell: corrections for many comparisons, standard errors, and power."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import group_codes

ALPHA = 0.05
"""Level of two-sided tests, of several ones after correction."""
POWER = 0.8
"""Probability with which a detectable difference is found."""
TESTED = P_VALUE, HOLM, DETECTABLE = "p-value", "p-value (Holm)", "detectable difference"


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
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(1, adjusted)


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
        squared sums of deviations from the mean, divided by N. The bootstrap of `estimate` has
        this spread in the limit.

    Raises
    ------
    InputError
        If there are fewer than two groups.
    """
    values = np.asarray(values, dtype=np.float64)
    sums = np.bincount(group_codes(groups, len(values)), weights=values - values.mean())
    n_groups = len(sums)
    if n_groups < 2:
        raise InputError("The spread of a mean needs at least two groups of queries.")
    return float(np.sqrt(n_groups / (n_groups - 1) * (sums**2).sum()) / len(values))


def detectable_difference(differences: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the mean difference that such a paired comparison finds with `POWER`.

    Parameters
    ----------
    differences : (N,) array
        Of two routers on the same queries, such as 1 where one answers correctly minus the other's.
    groups : (N,) array, optional
        As in `standard_error`.

    Returns
    -------
    float
        (z(1 - `ALPHA` / 2) + z(`POWER`)) times the standard error of the mean difference, in units
        of the values. Divided by the headroom, that of accuracies becomes one of gap closed.
    """
    z = norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)
    return float(z * standard_error(differences, groups))
