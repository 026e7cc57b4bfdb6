"""Transfer: how far routers get on kinds of queries that they have never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import Ranking, estimate, few
from prefill_router.evaluation.comparison import BEST, ORACLE, with_differences
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.results import results
from prefill_router.experiments.comparison import best_single
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
from prefill_router.metrics import gap_closed, macro

ROUTERS = (PRIMARY, LOGISTIC, TFIDF, BENCHMARK, LENGTH)
SEEN, LEFT_OUT = "seen in training", "left out"
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
    counts = pd.Series(values[study.test_rows]).value_counts(sort=False).sort_index()
    kept = np.sort(counts[counts >= FEWEST].nlargest(most).index)
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


def transfer(study: Study, most: int = 16) -> pd.DataFrame:
    """Compare routers on what they never saw with the same routers on what they did see.

    Parameters
    ----------
    study : Study
    most : int, default 16
        As in `leave_out`.

    Returns
    -------
    pandas.DataFrame
        Those of `evaluate_transfer` for each of `kinds`; none for a kind of which there are fewer
        than two values with enough test queries.
    """
    usual, found = _with_splits(study, study.splits), [results()]
    for kind, values in kinds(study).items():
        try:
            without = leave_out(study, values, most)
        except InputError:
            continue
        order = without.test_rows
        rows = np.isin(usual.test_rows, order)
        p = {
            name: (
                usual.over_folds(predictions(usual, name))[rows],
                without.over_folds(predictions(without, name)),
            )
            for name in ROUTERS
        }
        found.append(
            evaluate_transfer(
                p,
                study.labels.correct[order],
                best_single(usual)[rows],
                values[order],
                usual.test_folds[rows],
                study.labels.group[order],
                kind=kind,
                n_resamples=study.parameters.n_resamples,
                seed=study.parameters.seed,
            )
        )
    return pd.concat(found, ignore_index=True)


def evaluate_transfer(
    p: Mapping[str, tuple[np.ndarray, np.ndarray]],
    correct: np.ndarray,
    best: np.ndarray,
    values: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    *,
    kind: str,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each router's predictions of queries left out with those of queries seen.

    Parameters
    ----------
    p : mapping of router to two (N, K) arrays
        P(correct), of models that had seen other queries of the same value, and that had not.
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked.
    best : (N,) int array
        The best single target, in training queries of all values.
    values, folds, groups : (N,) arrays
        What was left out; the fold whose model predicted the query as seen; and queries that are
        resampled together.
    kind : str
        What the values are, such as ``"benchmark"``: the results' `target`.
    n_resamples, seed
        As in `estimate`.

    Returns
    -------
    pandas.DataFrame
        "AUC", of pairs of queries of one value, averaged over targets (to tell easy values from
        hard ones counts for nothing), and "gap closed", asking the likeliest target; by router, on
        the `split` `SEEN` and `LEFT_OUT`. What is lost when left out is the row of `SEEN` whose
        `versus` is `LEFT_OUT`: the difference, paired.
    """
    both = {(name, way): q for name in p for way, q in zip((SEEN, LEFT_OUT), p[name], strict=True)}
    pairs = [((name, SEEN), (name, LEFT_OUT)) for name in p]
    strata = pd.DataFrame([folds, values]).T.groupby([0, 1]).ngroup().to_numpy()
    aucs = estimate(
        {key: Ranking(q, correct, strata) for key, q in both.items()},
        with_differences({"AUC": lambda m, key: macro(m[key])}, both, pairs),
        groups,
        n_resamples=few(n_resamples),
        seed=seed,
    )
    kept = complete(correct, groups=groups)
    right, at = kept.correct, np.arange(len(kept.correct))
    columns = {key: right[at, policy.argmax(q[kept.rows])] for key, q in both.items()}
    columns |= {BEST: right[at, best[kept.rows]], ORACLE: right.max(axis=1)}
    measures = {"gap closed": lambda m, key: gap_closed(m[key], m[BEST], m[ORACLE])}
    quantities = with_differences(measures, both, pairs)
    gaps = estimate(columns, quantities, kept.groups, n_resamples=n_resamples, seed=seed)
    found = pd.concat([aucs, gaps], ignore_index=True)
    router, versus = found["router"].str, found["versus"].str
    return found.assign(router=router[0], split=router[1], versus=versus[1].fillna(""), target=kind)
