"""Every router on the same test queries, by every metric."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from prefill_router.evaluation.comparison import against, compare_best_single
from prefill_router.evaluation.curve_evaluation import compare_curves
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.evaluation.significance import compare_significance
from prefill_router.experiments.comparison import (
    Routed,
    best_single,
    choice_results,
    probability_results,
    reference_choices,
    resampling,
    test_labels,
)
from prefill_router.experiments.contest import CHALLENGER, TRIED
from prefill_router.experiments.routers import (
    ACCURACY,
    CONTROLS,
    PRIMARY,
    configurations,
    network_predictions,
)
from prefill_router.experiments.study import Study
from prefill_router.policy import argmax

NO_HYPOTHESES = (*CONTROLS, ACCURACY)
"""What shows that a result is real rather than competes: not corrected for."""
FRUGAL = " (frugal)"
"""Ends the metrics of the cheapest policy that is as accurate on validation as the best target."""
DEVIATION = "deviation between seeds"
CURVES_DRAWN = 100
"""Resamples at most of whole curves."""


def router_comparison(study: Study, routed: Mapping[str, Routed]) -> pd.DataFrame:
    """Evaluate routers on the test queries.

    Parameters
    ----------
    study : Study
    routed : mapping of router to Routed
        `CHALLENGER` and `PRIMARY` among them: these two are compared with all others.

    Returns
    -------
    pandas.DataFrame
        Results of `compare_choices` (also of the frugal policies, metrics ending in `FRUGAL`), of
        `compare_probabilities`, of `compare_curves` and of `compare_best_single`; p-values, and
        the difference in accuracy that these queries detect, of pairs; deviations between the
        recipe's single networks; and how many configurations of each router were compared.
    """
    Y, groups = test_labels(study), study.labels.group[study.test_rows]
    p = {name: r.p for name, r in routed.items()}
    choices = {name: r.choice for name, r in routed.items()} | reference_choices(study)
    others = [name for name in choices if name != CHALLENGER]  # no pair is asked about twice
    pairs = against(CHALLENGER, choices) + against(PRIMARY, others)
    tried = {name: configurations(study, name) for name in routed if name != CHALLENGER}
    found = [
        choice_results(study, choices, pairs),
        compare_best_single(Y, best_single(study), groups, **resampling(study)),
        probability_results(study, p, [(CHALLENGER, PRIMARY)]).query("target == ''"),
        _significance(study, {n: c for n, c in choices.items() if n in routed}),
        _deviations(study),
        results(counted(Quantity(TRIED, name), n) for name, n in tried.items()),
    ]
    if study.has_costs:
        frugal = {name: r.frugal for name, r in routed.items()}
        rows = select(choice_results(study, frugal, targets=()), router=list(frugal))
        found.append(rows.assign(metric=rows["metric"] + FRUGAL))
        cost = study.costs[study.test_rows]
        expected = [study.expected_costs(fold) for fold in range(len(study.splits))]
        expected = study.over_folds(expected)
        weak, strong = int(cost.mean(axis=0).argmin()), study.best_single[0]
        settings = {"weak_strong": (weak, strong) if weak != strong else None}
        settings |= {"best_single": best_single(study), **resampling(study, CURVES_DRAWN)}
        found.append(compare_curves(p, Y, cost, expected, groups, **settings))
    return pd.concat(found, ignore_index=True)


def _significance(study: Study, choices: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """p-values of the challenger and of the recipe against every other router, and the power.

    The two are compared once, among the challenger's hypotheses: in both families the same
    difference would have two corrected p-values.
    """
    Y, groups = test_labels(study), study.labels.group[study.test_rows]
    family = {name: choice for name, choice in choices.items() if name not in NO_HYPOTHESES}
    found = []
    for name in (CHALLENGER, PRIMARY):
        # Few resamples, as a reduced run has, could reject nothing after Holm's correction.
        seed = study.parameters.seed
        found.append(compare_significance(family, Y, groups, primary=name, seed=seed))
        family.pop(name)
    return pd.concat(found, ignore_index=True)


def _deviations(study: Study) -> pd.DataFrame:
    """Standard deviations between the recipe's single networks, where several are kept."""
    if study.parameters.keep < 2:
        return results()
    by_seed = {str(s): p for s, p in enumerate(network_predictions(study))}
    choices = {name: argmax(p) for name, p in by_seed.items()}
    found = [
        choice_results(study, choices, cost=None, targets=(), n_resamples=1),
        probability_results(study, by_seed, only=("AUC", "Brier"), n_resamples=1),
    ]
    rows = select(pd.concat(found), metric=["gap closed", "AUC", "Brier"], router=list(by_seed))
    return results(
        counted(Quantity(f"{metric}, {DEVIATION}", PRIMARY), value)
        for metric, value in rows.groupby("metric")["estimate"].std().items()
    )
