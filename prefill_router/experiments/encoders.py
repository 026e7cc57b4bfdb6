"""Encoders: whose states predict which target?

Each target is predicted by a logistic regression on the layer chosen for it: the simplest head, so
that encoders differ by their states alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from prefill_router.evaluation.results import results, select
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.experiments.study import Study

OTHER, OWN_STATES = "best other encoder", "own states"
PAIRED = "best encoder for each target"


def encoder_grid(study: Study) -> pd.DataFrame:
    """Say how well each encoder's states predict each target, on the test queries.

    Returns
    -------
    pandas.DataFrame
        Results: AUC for each target and, with an empty `target`, their mean, of every encoder
        (`router`) and of `PAIRED`; also of each trained encoder `versus` the untrained control, and
        of `PAIRED` `versus` the main encoder, which then reads for all targets.
    """
    trained, control = study.trained_encoders, study.parameters.untrained
    p = {
        e: best_of(study, {target: [e] for target in study.labels.targets}) for e in study.encoders
    }
    p[PAIRED] = best_of(study, dict.fromkeys(study.labels.targets, trained))
    pairs = [(PAIRED, study.parameters.encoder)] + [(e, control) for e in trained if control]
    return held_out(study).probabilities(p, pairs, ["AUC"])


def own_against_others(study: Study) -> pd.DataFrame:
    """Compare a target's own states with those of the best other encoder, for every such target.

    Returns
    -------
    pandas.DataFrame
        Results: AUC of `OTHER` versus `OWN_STATES` for each target and, with an empty `target`,
        their mean, paired on test queries. The untrained control is no other encoder. Empty where
        no target is among the encoders.
    """
    names, at = study.labels.targets, held_out(study)
    others = {t: [e for e in study.trained_encoders if e != t] for t in names}
    own = [t for t in names if t in study.trained_encoders and others[t]]
    if not own:
        return results()
    p = {OTHER: best_of(study, {t: others[t] for t in own})}
    p[OWN_STATES] = best_of(study, {t: [t] for t in own})
    at = replace(at, correct=at.correct[:, [names.index(t) for t in own]], targets=own)
    found = at.probabilities(p, [(OTHER, OWN_STATES)], ["AUC"])
    return select(found, versus=OWN_STATES, target=None)


def best_of(study: Study, candidates: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return P(correct) of the test rows, (n, M), each of M targets by its best encoder.

    `candidates` holds the encoders among which each target's is chosen, by `best_encoder`; the
    regressions on their states are not calibrated.
    """

    def column(target: str, encoders: Sequence[str], fold: int) -> np.ndarray:
        found = predictions(study, OWN, [best_encoder(study, target, encoders, fold)], False)
        return found[fold][:, study.labels.targets.index(target)]

    folds = range(len(study.splits))
    by_fold = [np.column_stack([column(*each, f) for each in candidates.items()]) for f in folds]
    return held_out(study).join(by_fold)


def best_encoder(study: Study, target: str, encoders: Sequence[str], fold: int = 0) -> str:
    """Return the encoder with the highest cross-validated AUC for a target on training rows."""

    def highest(encoder: str) -> float:
        table = study.layer_auc(encoder)
        of_target = table["target"] == study.labels.targets.index(target)
        return table.loc[of_target & (table["fold"] == fold), "auc"].max()

    return max(encoders, key=highest)
