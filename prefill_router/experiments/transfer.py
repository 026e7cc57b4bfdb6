"""Transfer: how far a router gets on a benchmark that it has never seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from prefill_router.evaluation.results import results, select
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import BENCHMARK, RIDGE, predictions
from prefill_router.experiments.study import Study
from prefill_router.labels.splits import Split

ROUTERS = (RIDGE, BENCHMARK)
"""`RIDGE` reads every layer, so that leaving a benchmark out takes no new choice of layers."""
SEEN, LEFT_OUT = "seen in training", "left out"
FEWEST, MOST = 20, 16
"""Test queries, labelled for every target, that a benchmark must have; and benchmarks at most."""


def transfer(study: Study) -> pd.DataFrame:
    """Compare routers on benchmarks they never saw with the same routers on those they did see.

    Returns
    -------
    pandas.DataFrame
        By router, on the `split` `SEEN` and `LEFT_OUT`, over all benchmarks: "AUC", of pairs of
        queries of one benchmark, averaged over targets (to tell easy benchmarks from hard ones
        counts for nothing), and "gap closed", asking the likeliest target. What is lost when left
        out is the row of `SEEN` whose `versus` is `LEFT_OUT`: the difference, paired. Also the AUC
        of `RIDGE` for each benchmark (the `target`). Empty if fewer than two have enough queries.
    """
    splits = leave_one_out(study)
    if len(splits) < 2:
        return results()
    without, at = study.like(splits), held_out(study)
    at = at.take(np.isin(at.rows, without.test_rows))
    values = study.labels.benchmark[at.rows]
    strata = pd.DataFrame({"fold": at.folds, "value": values}).groupby(["fold", "value"]).ngroup()
    p, pairs = {}, [((name, SEEN), (name, LEFT_OUT)) for name in ROUTERS]
    for name in ROUTERS:
        p[name, SEEN] = at.join(predictions(study, name))
        p[name, LEFT_OUT] = held_out(without).join(predictions(without, name))
    found = [replace(at, folds=strata.to_numpy()).likeliest(p, pairs)]
    for value in np.unique(values):
        here = np.flatnonzero(values == value)
        ridge = {way: each[here] for way, each in p.items() if way[0] == RIDGE}
        found.append(select(at.take(here).probabilities(ridge, only=["AUC"])).assign(target=value))
    rows = pd.concat(found, ignore_index=True)
    (router, split), versus = (rows["router"].str[i] for i in (0, 1)), rows["versus"].str[1]
    return rows.assign(router=router, split=split, versus=versus.fillna(""))


def leave_one_out(study: Study) -> list[Split]:
    """Return splits each of which tests one benchmark that it neither trains nor validates on.

    Returns
    -------
    list of Split
        By benchmark, in alphabetical order, of the `MOST` with most test queries: the study's first
        split, less the queries of the benchmark and those that share a group with one; it tests the
        benchmark's test queries in any of the study's splits. All that is fitted or chosen follows
        from these.
    """
    values, group, first = study.labels.benchmark, study.labels.group, study.splits[0]
    tested = study.test_rows[study.labels.complete[study.test_rows]]
    counts = pd.Series(values[tested]).value_counts(sort=False).sort_index()
    splits = []
    for value in sorted(counts[counts >= FEWEST].nlargest(MOST).index):
        test = study.test_rows[values[study.test_rows] == value]
        near = (values == value) | np.isin(group, group[test])
        splits.append(Split(*(part[~near[part]] for part in (first.train, first.validation)), test))
    return splits
