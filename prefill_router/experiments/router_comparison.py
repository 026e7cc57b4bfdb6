"""Every router on the same test queries, by every metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from prefill_router.evaluation.comparison import Evaluation, against
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.experiments.comparison import Routed, held_out, reference_choices
from prefill_router.experiments.contest import CHALLENGER, TRIED
from prefill_router.experiments.routers import (
    ACCURACY,
    CONTROLS,
    PRIMARY,
    configurations,
    network_predictions,
)
from prefill_router.experiments.study import Study

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
        Results of the methods of `Evaluation`: of choices (also of the frugal policies, metrics
        ending in `FRUGAL`), probabilities, curves, the choice of the best single target, and
        significance; deviations between the recipe's single networks; and how many configurations
        of each router were compared.

    Notes
    -----
    `CHALLENGER` and `PRIMARY` are compared once, among the challenger's hypotheses: in both
    families the same difference would have two corrected p-values.
    """
    at = held_out(study)
    p = {name: r.p for name, r in routed.items()}
    choices = {name: r.choice for name, r in routed.items()} | reference_choices(study)
    others = [name for name in choices if name != CHALLENGER]
    pairs = against(CHALLENGER, choices) + against(PRIMARY, others)
    rivals = {name: r.choice for name, r in routed.items() if name not in NO_HYPOTHESES}
    tried = {name: configurations(study, name) for name in routed if name != CHALLENGER}
    found = [
        at.choices(choices, pairs),
        at.choice_of_best_single(),
        at.probabilities(p, [(CHALLENGER, PRIMARY)]).query("target == ''"),
        at.significance(rivals, CHALLENGER),
        at.significance({n: c for n, c in rivals.items() if n != CHALLENGER}, PRIMARY),
        _deviations(study, at),
        results(counted(Quantity(TRIED, name), n) for name, n in tried.items()),
    ]
    if study.has_costs:
        frugal = {name: r.frugal for name, r in routed.items()}
        rows = select(at.choices(frugal), router=list(frugal))
        found.append(rows.assign(metric=rows["metric"] + FRUGAL))
        expected = at.join([study.expected_costs(fold) for fold in range(len(study.splits))])
        weak, strong = int(at.cost.mean(axis=0).argmin()), study.best_single[0]
        pair = (weak, strong) if weak != strong else None
        few = replace(at, n_resamples=min(CURVES_DRAWN, at.n_resamples))
        found.append(few.curves(p, expected, weak_strong=pair))
    return pd.concat(found, ignore_index=True)


def _deviations(study: Study, at: Evaluation) -> pd.DataFrame:
    """Standard deviations between the recipe's single networks, where several are kept."""
    if study.parameters.keep < 2:
        return results()
    by_seed = {str(s): p for s, p in enumerate(network_predictions(study))}
    rows = replace(at, n_resamples=1).likeliest(by_seed, only=("AUC", "Brier"))
    return results(
        counted(Quantity(f"{metric}, {DEVIATION}", PRIMARY), value)
        for metric, value in rows.groupby("metric")["estimate"].std().items()
    )
