"""Encoders against targets: whose states predict which target, its own or another model's?

Each target is predicted by a logistic regression on the layer chosen for it: the simplest head, so
that encoders differ by their states alone.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from prefill_router.evaluation.results import results
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.experiments.study import Study

OTHER = "best other encoder"
OWN_STATES = "own states"


def encoder_matrix(study: Study) -> pd.DataFrame:
    """Return how well each encoder's states predict each target on the test queries.

    Returns
    -------
    pandas.DataFrame
        Results: AUC by `encoder` and `target`.
    """
    at = held_out(study)
    p = {e: at.join(predictions(study, OWN, [e])) for e in study.encoders}
    rows = at.probabilities(p, only=["AUC"]).query("target != ''")
    return rows.assign(encoder=rows["router"], router=OWN)


def own_against_others(study: Study) -> pd.DataFrame:
    """Compare a target's own states with those of the best other encoder, for every such target.

    The other encoder is chosen, in each fold, by cross-validated AUC on training rows; the
    untrained control is not among them.

    Returns
    -------
    pandas.DataFrame
        Results: AUC of `OTHER` versus `OWN_STATES` by target, paired on test queries. Empty where
        no target is among the encoders.
    """
    found, at = [results()], held_out(study)
    for k, target in enumerate(study.labels.targets):
        others = [e for e in study.encoders if e not in (target, study.parameters.untrained)]
        if target not in study.encoders or not others:
            continue
        tables = pd.concat([study.layer_auc(encoder) for encoder in others])
        best = tables[tables["target"] == k].groupby(["fold", "encoder"], sort=False)["auc"].max()
        chosen = [
            predictions(study, OWN, [best[fold].fillna(0).idxmax()])[fold]
            for fold in range(len(study.splits))
        ]
        by_fold = {OTHER: chosen, OWN_STATES: predictions(study, OWN, [target])}
        p = {name: at.join(values)[:, [k]] for name, values in by_fold.items()}
        of_target = replace(at, correct=at.correct[:, [k]], targets=[target])
        compared = of_target.probabilities(p, [(OTHER, OWN_STATES)], ["AUC"])
        found.append(compared[compared["target"].eq(target) & compared["versus"].ne("")])
    return pd.concat(found, ignore_index=True)
