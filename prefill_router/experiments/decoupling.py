"""Encoders against targets: whose states predict which target, its own or another model's?"""

from __future__ import annotations

import pandas as pd

from prefill_router.evaluation.bootstrap import few
from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.probabilities import evaluate_probabilities
from prefill_router.experiments.comparison import compare_probabilities, test_labels
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.experiments.study import Study


def encoder_matrix(study: Study) -> tuple[pd.DataFrame, list[Estimate]]:
    """Say how well each encoder's states predict each target on the test queries.

    By a logistic regression for each target on the layer chosen for it: the simplest head there
    is, so that what differs between encoders is their states.

    Returns
    -------
    matrix : pandas.DataFrame
        AUC by encoder (rows) and target (columns).
    estimates : list of Estimate
        The same with intervals; `router` names the encoder.
    """
    p = {e: study.over_folds(predictions(study, OWN, [e])) for e in study.encoders}
    found = compare_probabilities(study, p, primary=None)
    aucs = [row for row in found if row.metric == "AUC" and row.target]
    frame = pd.DataFrame([(row.router, row.target, row.estimate) for row in aucs])
    matrix = frame.pivot(index=0, columns=1, values=2)
    return matrix.loc[study.encoders, list(study.labels.targets)], aucs


def own_against_others(study: Study) -> list[Estimate]:
    """Compare a target's own states with those of the best other encoder, for every such target.

    The other encoder is chosen, in each fold, by cross-validated AUC on training rows; the
    untrained control is not among them. Empty where no target is among the encoders.

    Returns
    -------
    list of Estimate
        AUC of the other's minus AUC of its own on test queries, paired.
    """
    result = []
    for k, target in enumerate(study.labels.targets):
        others = [e for e in study.encoders if e not in (target, study.parameters.untrained)]
        if target not in study.encoders or not others:
            continue
        chosen = []
        for fold in range(len(study.splits)):
            tables = {e: study.layer_auc(e) for e in others}
            inner = {
                e: t.loc[(t["target"] == k) & (t["fold"] == fold), "auc"].max()
                for e, t in tables.items()
            }
            chosen.append(predictions(study, OWN, [max(inner, key=inner.get)])[fold])
        own = predictions(study, OWN, [target])
        difference = evaluate_probabilities(
            {"other": study.over_folds(chosen)[:, [k]], "own": study.over_folds(own)[:, [k]]},
            test_labels(study)[:, [k]],
            study.labels.group[study.test_rows],
            targets=[target],
            folds=study.test_folds,
            primary="other",
            n_resamples=few(study.parameters.n_resamples),
            seed=study.parameters.seed,
        )
        row = next(row for row in difference if row.metric == "AUC difference")
        result.append(
            Estimate("AUC difference", "best other encoder - own", target, row.split,
                     row.estimate, row.lower, row.upper, row.n)
        )  # fmt: skip
    return result
