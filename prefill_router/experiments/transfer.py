"""Transfer: how far routers get on kinds of queries that they have never seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import auc_intervals, few, intervals
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import gap_closed, macro
from prefill_router.experiments.routers import (
    BENCHMARK,
    LENGTH,
    LOGISTIC,
    PRIMARY,
    TFIDF,
    predictions,
)
from prefill_router.experiments.study import Study
from prefill_router.labels.splits import Split

ROUTERS = (PRIMARY, LOGISTIC, TFIDF, BENCHMARK, LENGTH)
SEEN, LEFT_OUT, LOST = "seen in training", "left out", "lost"
FEWEST = 20
"""Test queries that a value must have."""
SEEDS = {"n_seeds": 3, "keep": 2}
"""SharedTrunkNets trained and kept at most, with and without the queries left out."""


def leave_out(study: Study, values: np.ndarray, most: int) -> Study:
    """Return a study whose every split tests one value that it neither trains nor validates on.

    Parameters
    ----------
    study : Study
    values : (N,) array of str
        What is left out in turn, such as the queries' benchmarks.
    most : int
        Values left out at most, those with most test queries: each costs a choice of layers anew.

    Returns
    -------
    Study
        Its splits are those of the study's first, less the queries of the value, and those that
        share a group with one; they test the value's test queries in any of the study's splits.
        All that is fitted or chosen, layers included, follows from these splits.

    Raises
    ------
    InputError
        If there are fewer than two values to leave out.
    """
    tested, counts = np.unique(values[study.test_rows], return_counts=True)
    kept = tested[(counts >= FEWEST)]
    kept = np.sort(kept[np.argsort(-counts[counts >= FEWEST], kind="stable")][:most])
    if len(kept) < 2:
        raise InputError(f"There must be two values with at least {FEWEST} test queries each.")
    first, group = study.splits[0], study.labels.group
    splits = []
    for value in kept:
        test = study.test_rows[values[study.test_rows] == value]
        near = (values == value) | np.isin(group, group[test])
        rest = (rows[~near[rows]] for rows in (first.train, first.validation))
        splits.append(Split(*rest, test))
    return _with_splits(study, splits)


def _with_splits(study: Study, splits: Sequence[Split]) -> Study:
    """Return a study of the same labels and states with other splits, and fewer seeds."""
    p = study.parameters
    fewer = {name: min(most, getattr(p, name)) for name, most in SEEDS.items()}
    return study.like(splits, **fewer)


def kinds(study: Study) -> dict[str, np.ndarray]:
    """Return what may be left out, by its name: benchmarks, and of the zoo's questions levels."""
    labels = study.labels
    found = {"family" if study.is_zoo else "benchmark": labels.benchmark}
    if study.is_zoo:
        from prefill_router.zoo.skills import benchmark

        levels = benchmark().set_index("query_id").loc[labels.query_id, "level"]
        found["level"] = levels.to_numpy().astype(str)
    return found


def transfer(study: Study, most: int = 16) -> list[Estimate]:
    """Compare routers on what they never saw with the same routers on what they did see.

    Parameters
    ----------
    study : Study
    most : int, default 16
        As in `leave_out`.

    Returns
    -------
    list of Estimate
        Those of `evaluate_transfer` for each of `kinds`; none for a kind of which there are fewer
        than two values with enough test queries.
    """
    usual = _with_splits(study, study.splits)
    found = []
    for kind, values in kinds(study).items():
        try:
            without = leave_out(study, values, most)
        except InputError:
            continue
        order = without.test_rows
        rows = np.isin(usual.test_rows, order)
        p = {}
        for name in ROUTERS:
            p[name, SEEN] = usual.over_folds(predictions(usual, name))[rows]
            p[name, LEFT_OUT] = without.over_folds(predictions(without, name))
        best = usual.over_folds(
            [np.full(study.labels.n_queries, k) for k in usual.best_single]
        )[rows]  # fmt: skip
        found += evaluate_transfer(
            p,
            study.labels.correct[order],
            best,
            values[order],
            usual.test_folds[rows],
            study.labels.group[order],
            kind=kind,
            n_resamples=study.parameters.n_resamples,
            seed=study.parameters.seed,
        )
    return found


def evaluate_transfer(
    p: dict[tuple[str, str], np.ndarray],
    correct: np.ndarray,
    best: np.ndarray,
    values: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    *,
    kind: str,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Compare each router's predictions of queries left out with those of queries seen.

    Parameters
    ----------
    p : dict of (router, SEEN or LEFT_OUT) to (N, K) array
        P(correct), of models that had seen other queries of the same value, and that had not.
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked.
    best : (N,) int array
        The best single target, in training queries of all values.
    values, folds, groups : (N,) arrays
        What was left out; the fold whose model predicted the query as SEEN; and queries that are
        resampled together.
    kind : str
        What the values are, such as ``"benchmark"``.
    n_resamples, seed
        As in `bootstrap.intervals`.

    Returns
    -------
    list of Estimate
        By router and way: "AUC", of pairs of queries of one value, averaged over targets (to tell
        easy values from hard ones counts for nothing), and "gap closed", asking the likeliest
        target; and of both what is `LOST` when left out, SEEN minus LEFT_OUT, paired. `split`
        names the kind, `target` the way.
    """
    keys, n_targets = list(p), correct.shape[1]
    routers = list(dict.fromkeys(name for name, _ in keys))
    pairs = [[keys.index((name, way)) for name in routers] for way in (SEEN, LEFT_OUT)]

    def lost(columns: np.ndarray) -> np.ndarray:
        return columns[:, pairs[0]] - columns[:, pairs[1]]

    def areas(by_column: np.ndarray) -> np.ndarray:
        columns = macro(by_column.reshape(len(by_column), len(keys), n_targets))
        return np.hstack([columns, lost(columns)])

    strata = np.unique(
        [f"{f} {v}" for f, v in zip(folds, values, strict=True)], return_inverse=True
    )
    found = auc_intervals(
        np.hstack(list(p.values())), np.tile(correct, (1, len(keys))), groups, areas,
        few(n_resamples), seed, strata[1],
    )  # fmt: skip
    labels = [*keys, *[(name, LOST) for name in routers]]
    result = rows_of("AUC", labels, found, kind, len(correct))

    kept = complete(correct, groups=groups)
    rows, full = kept.rows, kept.correct
    choices = np.column_stack([policy.argmax(values) for values in p.values()])[rows]
    at = np.column_stack([choices, best[rows]])
    right = np.column_stack([np.take_along_axis(full, at, axis=1), full.max(axis=1)])

    def gaps(means: np.ndarray) -> np.ndarray:
        columns = gap_closed(means[:, :-2], means[:, [-2]], means[:, [-1]])
        return np.hstack([columns, lost(columns)])

    found = intervals(right, kept.groups, gaps, n_resamples, seed)
    return result + rows_of("gap closed", labels, found, kind, len(full))
