"""The primary comparisons on real labels: prefill states against the best that read none.

They were written down before these runs: heads on the main encoder's states against semantic
routers, each side the router with the least pairwise Brier score on validation rows, and against
the router that is told the benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.bootstrap import LEVEL, holm, resampled
from prefill_router.evaluation.comparison import BEST, HOLM, ORACLE, P_VALUE
from prefill_router.evaluation.results import results, select
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import (
    BENCHMARK,
    CLUSTERS,
    FACTORS,
    HEADS,
    LOGISTIC,
    MLP,
    PRIMARY,
    SEMANTIC,
    least_error,
    predictions,
)
from prefill_router.experiments.study import Study
from prefill_router.metrics import gap_closed

STATES, BEST_SEMANTIC = "prefill states, best head", "best semantic router"
COMPARED = ((STATES, BEST_SEMANTIC), (STATES, BENCHMARK))
"""The primary comparisons; their p-values are corrected for the number of pools."""
SEEDED, SEEDS = (PRIMARY, LOGISTIC, CLUSTERS, FACTORS, MLP), 2
"""Routers whose fit is random, and seeds of them that intervals and p-values cover."""
DRAWS = 10_000
UNCALIBRATED = ", not calibrated"


def chosen(study: Study, names: Sequence[str], seed: int, calibrated: bool = True) -> np.ndarray:
    """Return the likeliest targets (n,) by the best router on each fold's validation rows.

    The routers that are `SEEDED` are fitted with this seed.
    """
    seeded = study.like(study.splits, seed=seed)
    seeded.labels = study.labels  # the seed would draw other queries of them
    owner = {name: seeded if name in SEEDED else study for name in names}
    raw = {name: predictions(owner[name], name, calibrated=False) for name in names}
    best = [least_error(study, raw, fold) for fold in range(len(study.splits))]
    p = [predictions(owner[b], b, calibrated=calibrated)[fold] for fold, b in enumerate(best)]
    return policy.argmax(held_out(study).join(p))


def primary_comparison(study: Study, calibrated: bool = True) -> pd.DataFrame:
    """Compare heads on prefill states with semantic routers and with the benchmark-aware one.

    Parameters
    ----------
    study : Study
    calibrated : bool, default True
        Whether each router asks the target that is likeliest after its calibration, as was written
        down before these runs; if not, names end in `UNCALIBRATED`.

    Returns
    -------
    pandas.DataFrame
        On test queries "accuracy" and "gap closed" of `STATES` and `BEST_SEMANTIC`, and of the
        latter the differences `COMPARED`, each with a "p-value". Resamples draw groups of queries,
        and shift each router by itself by what seeds differ over all queries: by the mean effect of
        seeds drawn with replacement, one less than there are, whose variance is that of the mean of
        all.
    """
    sides = {STATES: list(HEADS.values()), BEST_SEMANTIC: SEMANTIC, BENCHMARK: [BENCHMARK]}
    seeds = range(study.parameters.seed, study.parameters.seed + SEEDS)
    rows, at = held_out(study).complete()
    Y, every = at.correct, np.arange(len(at.correct))
    columns = {BEST: Y[every, at.best_single], ORACLE: Y.max(axis=1)}
    for name, routers in sides.items():
        asked = [chosen(study, routers, seed, calibrated)[rows] for seed in seeds]
        columns[name] = np.column_stack([Y[every, choice] for choice in asked])
    reads = [lambda m, name=name: m[name] for name in columns]
    found = resampled(columns, reads, at.groups, DRAWS, study.parameters.seed)
    best, oracle = (np.concatenate([part[:, i] for part in found]) for i in (0, 1))
    rng, values = np.random.default_rng([study.parameters.seed, 1]), {}
    for i, name in enumerate(sides):
        sample, drawn = (part[:, 2 + SEEDS * i :][:, :SEEDS] for part in found)
        effects = (sample - sample.mean())[0]
        shift = effects[rng.integers(SEEDS, size=(len(drawn), SEEDS - 1))].mean(axis=1)
        right = np.append(sample.mean(), drawn.mean(axis=1) + shift)
        values[name, ""] = {"accuracy": right, "gap closed": gap_closed(right, best, oracle)}
    for name, versus in COMPARED:
        lead = values[name, ""]["gap closed"] - values[versus, ""]["gap closed"]
        values[name, versus] = {"gap closed": lead}
    table = [
        {"metric": metric, "router": name, "versus": versus, "n": len(Y)} | _interval(draws)
        for (name, versus), measured in values.items()
        if (name, versus) != (BENCHMARK, "")  # which `every_router` has
        for metric, draws in measured.items()
    ]
    for name, versus in COMPARED:
        drawn = values[name, versus]["gap closed"][1:]
        smaller = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p = min(1.0, 2 * (1 + smaller) / (DRAWS + 1))
        about = {"metric": P_VALUE, "router": name, "versus": versus, "n": len(Y)}
        table.append(about | {"estimate": p})
    found = results(table)
    names = [] if calibrated else [*sides]
    return found.replace({name: name + UNCALIBRATED for name in names})


def _interval(draws: np.ndarray) -> dict[str, float]:
    known = draws[1:][~np.isnan(draws[1:])]
    bounds = 50 * (1 - LEVEL), 50 * (1 + LEVEL)
    lower, upper = np.percentile(known, bounds) if known.size else (np.nan, np.nan)
    return {"estimate": draws[0], "lower": lower, "upper": upper}


def corrected_p_values(found: pd.DataFrame) -> pd.DataFrame:
    """Return the p-values of all pools, each comparison's corrected by Holm for their number."""
    tested = select(found, metric=P_VALUE, versus=None).copy()
    of_comparison = tested.groupby(["router", "versus"])["estimate"]
    return tested.assign(metric=HOLM, estimate=of_comparison.transform(lambda p: holm(p)))
