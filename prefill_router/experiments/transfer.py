"""Transfer: how far routers get on kinds of queries that they have never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.results import results, select
from prefill_router.experiments.comparison import HeldOut, held_out
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
        Those of `compare_ways` for each of `kinds` (the `target`); none for a kind of which there
        are fewer than two values with enough test queries.
    """
    usual, found = _with_splits(study, study.splits), [results()]
    for kind, values in kinds(study).items():
        try:
            without = leave_out(study, values, most)
        except InputError:
            continue
        at = held_out(usual)
        at = at.take(np.isin(at.rows, without.test_rows))
        p = {(name, SEEN): at.join(predictions(usual, name)) for name in ROUTERS}
        p |= {(n, LEFT_OUT): without.over_folds(predictions(without, n)) for n in ROUTERS}
        found.append(compare_ways(at, p, values).assign(target=kind))
    return pd.concat(found, ignore_index=True)


def compare_ways(
    at: HeldOut, p: Mapping[tuple[str, str], np.ndarray], values: np.ndarray
) -> pd.DataFrame:
    """Compare each router's predictions of queries left out with those of queries seen.

    Parameters
    ----------
    at : HeldOut
        Queries, and the folds whose models predicted them as seen.
    p : mapping of (router, `SEEN` or `LEFT_OUT`) to (n, K) array
        P(correct) of these rows, of models that had seen other queries of the same value, and that
        had not.
    values : (N,) array
        What was left out.

    Returns
    -------
    pandas.DataFrame
        "AUC", of pairs of queries of one value, averaged over targets (to tell easy values from
        hard ones counts for nothing), and "gap closed", asking the likeliest target; by router, on
        the `split` `SEEN` and `LEFT_OUT`. What is lost when left out is the row of `SEEN` whose
        `versus` is `LEFT_OUT`: the difference, paired.
    """
    pairs = [((name, SEEN), (name, LEFT_OUT)) for name, way in p if way == SEEN]
    strata = pd.DataFrame([at.folds, values[at.rows]]).T.groupby([0, 1]).ngroup().to_numpy()
    aucs = replace(at, folds=strata).probabilities(p, pairs, ["AUC"])
    choices = {key: policy.argmax(q) for key, q in p.items()}
    gaps = at.choices(choices, pairs)
    wanted = {"metric": ["AUC", "gap closed"], "router": list(p), "versus": None}
    found = select(pd.concat([aucs, gaps]), **wanted)
    router, versus = found["router"].str, found["versus"].str
    return found.assign(router=router[0], split=router[1], versus=versus[1].fillna(""))
