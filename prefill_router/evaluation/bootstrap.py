"""Paired bootstrap over groups of queries: named columns in, named quantities out.

Queries that share a group (one text, several wordings) are drawn together. A resample is the number
of times each group is drawn, so means over all resamples are one matrix product. The same groups
and seed always give the same resamples: what is estimated on them is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from prefill_router.errors import InputError
from prefill_router.evaluation.results import Quantity, results
from prefill_router.metrics import rank_pairs, ratio
from prefill_router.progress import track

LEVEL = 0.95
FEW = 500  # resamples at most of what each of them takes long to evaluate, such as AUC
CHUNK = 250  # resamples held in memory at once
ALPHA = 0.05
"""Level of two-sided tests, of several ones after correction."""
POWER = 0.8
"""Probability with which a detectable difference is found."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """A column of `estimate` whose value in a resample is an AUC instead of a mean.

    Attributes
    ----------
    scores, correct : (N,) or (N, M) arrays
        Predictions, and 1 right, 0 wrong or NaN never asked.
    strata : (N,) array, optional
        Only rows of the same stratum are compared, such as those that one fold's model predicted:
        scores of different models have no common scale. Default: all rows.
    """

    scores: np.ndarray
    correct: np.ndarray
    strata: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def evaluator(self, group: np.ndarray) -> Function:
        """Return each column's AUC (B, ...) by how often groups are drawn, (B, G).

        One sort, then O(B N).
        """
        scores, correct = (np.asarray(v, dtype=np.float64) for v in (self.scores, self.correct))
        stratum = np.zeros(len(self)) if self.strata is None else np.asarray(self.strata)
        strata = [np.flatnonzero(stratum == value) for value in np.unique(stratum)]
        flat = (values.reshape(len(self), -1).T for values in (scores, correct))
        ranked = [
            [(group[rows], *rank_pairs(s[rows], y[rows])) for rows in strata]
            for s, y in zip(*flat, strict=True)
        ]

        def areas(draws: np.ndarray) -> np.ndarray:
            weights = np.ascontiguousarray(draws.T)
            found = np.column_stack([_area(parts, weights) for parts in ranked])
            return found.reshape(len(draws), *scores.shape[1:])

        return areas


@dataclass(frozen=True, eq=False)
class OfRows:
    """A column of `estimate` whose value is any function of rows, evaluated once a resample.

    Attributes
    ----------
    statistic : callable
        Maps row numbers, some repeated, (n,) to a value or an array of values.
    n_rows : int
        Number of rows N.
    """

    statistic: Callable[[np.ndarray], np.ndarray]
    n_rows: int

    def __len__(self) -> int:
        return self.n_rows

    def evaluator(self, group: np.ndarray) -> Function:
        """Return the statistic (B, ...) by how often groups are drawn, (B, G)."""
        rows = np.arange(len(self))

        def values(draws: np.ndarray) -> np.ndarray:
            taken = (np.repeat(rows, draw[group].astype(np.int64)) for draw in draws)
            return np.array([self.statistic(drawn) for drawn in taken])

        return values


Column = np.ndarray | Ranking | OfRows
Values = Mapping[Hashable, np.ndarray]
Function = Callable[[Values], np.ndarray]
Measure = Callable[[Values, str], np.ndarray]
Pairs = Sequence[tuple[str, str]]


def estimate(
    columns: Mapping[Hashable, Column],
    quantities: Mapping[Quantity | tuple[Quantity, ...], Function],
    groups: np.ndarray | None = None,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
    centred: bool = False,
) -> pd.DataFrame:
    """Return quantities with 95 % percentile intervals, all of them on the same resamples.

    Parameters
    ----------
    columns : mapping of a name to a column
        What is known of N rows. An array, (N,) or (N, M), is averaged over rows; NaN leaves a row
        out of that mean. Of a `Ranking` the AUC is taken; `OfRows` is any other function.
    quantities : mapping of Quantity to callable
        Each maps the columns' values in B resamples, by name, (B,) or (B, M), to (B,). A tuple of
        quantities maps them to (B, S), S its length.
    groups : (N,) array, optional
        Rows that share a value are drawn together. Default: each row by itself.
    n_resamples : int, default 2000
        At most `FEW` do for columns that are not averaged.
    seed : int, default 0
    centred : bool, default False
        Shift each interval by the resamples' bias, their mean minus the estimate. For statistics
        that noise can only raise, such as sums of absolute values or the area under a hull: their
        resamples lie above the estimate, and so may the whole interval.

    Returns
    -------
    pandas.DataFrame
        Results, one row a quantity. Resamples in which it is undefined (NaN) are left out of its
        interval. `n` is that of the quantity, by default N.

    Raises
    ------
    InputError
        If there are no rows, or columns and groups differ in length.
    """
    sample, drawn = resampled(columns, list(quantities.values()), groups, n_resamples, seed)
    labels = [q for key in quantities for q in (key if isinstance(key, tuple) else (key,))]
    rows = []
    for of, value, values in zip(labels, sample[0], drawn.T, strict=True):
        values = values[~np.isnan(values)]
        if centred and len(values):
            values = values - (values.mean() - value)
        bounds = 50 * (1 - LEVEL), 50 * (1 + LEVEL)
        lower, upper = np.percentile(values, bounds) if len(values) else (np.nan, np.nan)
        found = {"estimate": value, "lower": lower, "upper": upper}
        rows.append(vars(of) | found | ({"n": n_rows(columns)} if of.n is None else {}))
    return results(rows)


def differences(
    measures: Mapping[str, Measure],
    names: Iterable[str],
    pairs: Pairs = (),
    targets: Sequence[str] = ("",),
) -> dict[tuple[Quantity, ...], Function]:
    """Return the quantities for `estimate`: measures of routers, and their differences.

    Parameters
    ----------
    measures : mapping of metric to callable
        Maps the columns' values and a router's name to its metric, (B,), or (B, S) for each of S
        `targets`.
    names : iterable of str
        Routers.
    pairs : sequence of (router, versus)
        Whose metrics are subtracted.
    targets : sequence of str, default of one that is empty
    """
    found = {}
    for metric, measure in measures.items():
        for name in names:
            of = tuple(Quantity(metric, name, target=target) for target in targets)
            found[of] = lambda m, of=measure, a=name: of(m, a)
        for a, b in pairs:
            of = tuple(Quantity(metric, a, b, target) for target in targets)
            found[of] = lambda m, of=measure, a=a, b=b: of(m, a) - of(m, b)
    return found


def p_values(
    differences: np.ndarray,
    groups: np.ndarray | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Return for each column mean the two-sided p-value of its being 0.

    Parameters
    ----------
    differences : (N, M) array
        For instance of two routers on the same queries; NaN leaves a row out of a column.
    groups, n_resamples, seed
        As for `estimate`.

    Returns
    -------
    (M,) array
        The least level at which the percentile interval leaves 0 out: twice the smaller share of
        resamples on either side of 0, the observed sample counted as one more resample on both.
        At least 2 / (n_resamples + 1); 1 for a column of zeros.

    References
    ----------
    Davison and Hinkley, "Bootstrap Methods and their Application", 1997, chapters 4 and 5.
    """
    columns = {"differences": differences}
    _, drawn = resampled(columns, [lambda m: m["differences"]], groups, n_resamples, seed)
    smaller = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    return np.minimum(1, 2 * (1 + smaller) / (n_resamples + 1))


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
        As for `estimate`.

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
        As for `estimate`.

    Returns
    -------
    float
        (z(1 - `ALPHA` / 2) + z(`POWER`)) times the standard error of the mean difference, in units
        of the values. Divided by the headroom, that of accuracies becomes one of gap closed.
    """
    z = norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)
    return float(z * standard_error(differences, groups))


def resampled(
    columns: Mapping[Hashable, Column],
    functions: Sequence[Function],
    groups: np.ndarray | None,
    n_resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return functions of columns, of the rows as they are (1, S) and resampled (B, S)."""
    group = group_codes(groups, n_rows(columns))
    n_groups = group.max() + 1
    slow = {n: c.evaluator(group) for n, c in columns.items() if isinstance(c, Ranking | OfRows)}
    means = _means({n: c for n, c in columns.items() if n not in slow}, group)

    def values(draws: np.ndarray) -> np.ndarray:
        known = means(draws) | {name: column(draws) for name, column in slow.items()}
        return np.column_stack([function(known) for function in functions])

    # In chunks of about one size: one row alone is never a chunk of two or more resamples.
    rng, n_chunks = np.random.default_rng(seed), -(-n_resamples // CHUNK)
    chunks = np.array_split(np.arange(n_resamples), n_chunks)
    drawn = [
        values(_draw(rng, n_groups, len(chunk)))
        for chunk in (track(chunks, "bootstrap", n_chunks) if slow else chunks)
    ]
    return values(np.ones((1, n_groups))), np.concatenate(drawn)


def n_rows(columns: Mapping[Hashable, Column]) -> int:
    """Return how many rows all columns are of, or raise InputError."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"Columns must be of the same rows; these differ in length: {lengths}.")
    return next(iter(lengths.values()), 0)


def group_codes(groups: np.ndarray | None, n_rows: int) -> np.ndarray:
    """Return each row's group, numbered from 0, (N,) int; None: each row is its own."""
    if n_rows == 0:
        raise InputError("There are no rows to resample.")
    if groups is None:
        return np.arange(n_rows)
    if len(groups) != n_rows:
        raise InputError(f"There are {len(groups)} groups for {n_rows} rows; give one for each.")
    return np.unique(groups, return_inverse=True)[1]


def _draw(rng: np.random.Generator, n_groups: int, size: int) -> np.ndarray:
    """Return how often each group is drawn in each of some resamples, (size, G) float64."""
    cells = rng.integers(n_groups, size=(size, n_groups)) + n_groups * np.arange(size)[:, None]
    counts = np.bincount(cells.ravel(), minlength=cells.size)
    return counts.reshape(cells.shape).astype(np.float64)


def _means(arrays: Mapping[Hashable, np.ndarray], group: np.ndarray) -> Callable:
    """Return the means of all columns as a function of draws: one matrix product for all."""
    if not arrays:
        return lambda draws: {}
    flat = [np.reshape(column, (len(group), -1)) for column in arrays.values()]
    values = np.hstack(flat).astype(np.float64)
    gaps = np.flatnonzero(np.isnan(values).any(axis=0))
    seen = ~np.isnan(values[:, gaps])
    values[:, gaps] = np.where(seen, values[:, gaps], 0)
    size = np.bincount(group)
    total, count = np.zeros((len(size), values.shape[1])), np.zeros((len(size), len(gaps)))
    np.add.at(total, group, values)
    np.add.at(count, group, seen)
    ends = np.cumsum([column.shape[1] for column in flat])[:-1]

    def means(draws: np.ndarray) -> dict[Hashable, np.ndarray]:
        counts = np.repeat((draws @ size)[:, None], total.shape[1], axis=1)
        counts[:, gaps] = draws @ count
        parts = np.split(ratio(draws @ total, counts), ends, axis=1)
        return {
            name: part.reshape(len(draws), *np.shape(column)[1:])
            for (name, column), part in zip(arrays.items(), parts, strict=True)
        }

    return means


def _area(parts: list[tuple[np.ndarray, ...]], weights: np.ndarray) -> np.ndarray:
    """Return the share of pairs that are in order, over strata, (B,); groups weigh (G, B)."""
    ordered, pairs = np.zeros((2, weights.shape[1]))
    for group, right, wrong, below, not_above in parts:
        sums = np.zeros((len(wrong) + 1, weights.shape[1]))
        np.cumsum(weights[group[wrong]], axis=0, out=sums[1:])
        times = weights[group[right]]
        beaten = sums[below] + sums[not_above]  # twice: half of each tie is beaten
        ordered += (times * beaten).sum(axis=0) / 2
        pairs += times.sum(axis=0) * sums[-1]
    return ratio(ordered, pairs)
