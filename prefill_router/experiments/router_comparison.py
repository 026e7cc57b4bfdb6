"""Every router on the same test queries; and the head that validation chooses, was it right?"""

from __future__ import annotations

import pandas as pd

from prefill_router.evaluation.bootstrap import differences
from prefill_router.evaluation.comparison import against
from prefill_router.evaluation.results import select
from prefill_router.experiments.comparison import held_out, reference_choices, route
from prefill_router.experiments.routers import (
    ACCURACY,
    AUTO,
    CONTROLS,
    HEADS,
    PRIMARY,
    predictions,
    router_names,
)
from prefill_router.experiments.study import Study
from prefill_router.metrics import pairwise_brier

NO_HYPOTHESES = (*CONTROLS, ACCURACY, AUTO)
"""Not corrected for: what shows that a result is real, and the head that is another router's."""
PAIRWISE = "pairwise Brier"


def compare_routers(study: Study) -> pd.DataFrame:
    """Evaluate every router that a study allows on its test queries.

    Returns
    -------
    pandas.DataFrame
        Results of the methods of `Evaluation`: of choices, those of `PRIMARY` also versus each
        other router; of probabilities, averaged over targets; of the choice of the best single
        target; the significance of `PRIMARY` versus what competes with it; and, where costs are
        known, of whole curves.
    """
    at, routed = held_out(study), {name: route(study, name) for name in router_names(study)}
    choices = {name: r.choice for name, r in routed.items()} | reference_choices(study)
    p = {name: r.p for name, r in routed.items()}
    rivals = {name: choices[name] for name in routed if name not in NO_HYPOTHESES}
    found = [
        at.choices(choices, against(PRIMARY, choices)),
        select(at.probabilities(p), target=""),
        at.choice_of_best_single(),
        at.significance(rivals, PRIMARY),
    ]
    if study.has_costs:
        expected = at.join([study.expected_costs(fold) for fold in range(len(study.splits))])
        weak, strong = int(at.cost.mean(axis=0).argmin()), study.best_single[0]
        pair = (weak, strong) if weak != strong else None
        found.append(at.curves(p, expected, weak_strong=pair))
    return pd.concat(found, ignore_index=True)


def compare_heads(study: Study) -> pd.DataFrame:
    """Compare the heads that `Router.fit` offers, and the one that validation rows choose.

    Returns
    -------
    pandas.DataFrame
        Of each of `HEADS` and `AUTO`, and of `AUTO` versus each head: `PAIRWISE`, before
        calibration, on the validation rows that choose and on test rows; and on test rows the gap
        closed.
    """
    names, found = [*HEADS.values(), AUTO], []
    pairs = against(AUTO, names)
    raw = {name: predictions(study, name, calibrated=False) for name in names}
    for split in ("validation", "test"):
        at = held_out(study, split)
        columns = {name: pairwise_brier(at.join(p), at.correct) for name, p in raw.items()}
        found.append(at.estimate(columns, differences({PAIRWISE: lambda m, a: m[a]}, names, pairs)))
    choices = {name: route(study, name).choice for name in names}
    gaps = held_out(study).choices(choices, pairs)
    found.append(select(gaps, metric="gap closed", router=names, versus=None))
    return pd.concat(found, ignore_index=True)
