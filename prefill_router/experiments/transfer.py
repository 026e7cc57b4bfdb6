"""Transfer: how far routers get on kinds of queries that they have never seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from prefill_router.evaluation.results import results
from prefill_router.experiments import routers
from prefill_router.experiments.comparison import HeldOut, held_out
from prefill_router.experiments.study import Study
from prefill_router.labels.splits import Split

ROUTERS = (routers.PRIMARY, routers.LOGISTIC, routers.TFIDF, routers.BENCHMARK, routers.LENGTH)
SEEN, LEFT_OUT = "seen in training", "left out"
FEWEST = 20
"""Test queries that a value must have."""
SEEDS = {"n_seeds": 3, "keep": 2}
"""SharedTrunkNets trained and kept at most, with and without the queries left out."""


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
    fewer = {name: min(n, getattr(study.parameters, name)) for name, n in SEEDS.items()}
    usual, found = study.like(study.splits, **fewer), [results()]
    for kind, values in kinds(study).items():
        splits = leave_out(study, values, most)
        if len(splits) < 2:
            continue
        without = usual.like(splits)
        at = held_out(usual)
        at = at.take(np.isin(at.rows, without.test_rows))
        p = {(name, SEEN): at.join(routers.predictions(usual, name)) for name in ROUTERS}
        for name in ROUTERS:
            p[name, LEFT_OUT] = held_out(without).join(routers.predictions(without, name))
        found.append(compare_ways(at, p, values[at.rows]).assign(target=kind))
    return pd.concat(found, ignore_index=True)


def kinds(study: Study) -> dict[str, np.ndarray]:
    """Return what may be left out, by its name: benchmarks, and of the zoo's questions levels."""
    labels = study.labels
    if not study.is_zoo:
        return {"benchmark": labels.benchmark}
    from prefill_router.zoo.skills import benchmark

    levels = benchmark().set_index("query_id").loc[labels.query_id, "level"]
    return {"family": labels.benchmark, "level": levels.to_numpy().astype(str)}


def leave_out(study: Study, values: np.ndarray, most: int) -> list[Split]:
    """Return splits each of which tests one value that it neither trains nor validates on.

    Parameters
    ----------
    study : Study
    values : (N,) array of str
        What is left out in turn, such as the queries' benchmarks.
    most : int
        Values left out at most, those with most test queries: each costs a choice of layers anew.

    Returns
    -------
    list of Split
        One per value with at least `FEWEST` test queries: the study's first split, less the queries
        of the value and those that share a group with one; it tests the value's test queries in any
        of the study's splits. All that is fitted or chosen, layers included, follows from these.
    """
    counts = pd.Series(values[study.test_rows]).value_counts(sort=False).sort_index()
    first, group, splits = study.splits[0], study.labels.group, []
    for value in sorted(counts[counts >= FEWEST].nlargest(most).index):
        test = study.test_rows[values[study.test_rows] == value]
        near = (values == value) | np.isin(group, group[test])
        splits.append(Split(*(part[~near[part]] for part in (first.train, first.validation)), test))
    return splits


def compare_ways(
    at: HeldOut, p: Mapping[tuple[str, str], np.ndarray], values: np.ndarray
) -> pd.DataFrame:
    """Compare each router's predictions of queries left out with those of queries seen.

    Parameters
    ----------
    at : HeldOut
        Queries, n of them, and the folds whose models predicted them as seen.
    p : mapping of (router, `SEEN` or `LEFT_OUT`) to (n, K) array
        P(correct), of models that had seen other queries of the same value, and that had not.
    values : (n,) array
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
    strata = pd.DataFrame({"fold": at.folds, "value": values}).groupby(["fold", "value"]).ngroup()
    found = replace(at, folds=strata.to_numpy()).likeliest(p, pairs)
    router, versus = found["router"].str, found["versus"].str
    return found.assign(router=router[0], split=router[1], versus=versus[1].fillna(""))
