"""Encoders: whose states predict which target, and what do larger, longer trained ones tell?

Each target is predicted by a logistic regression on the layer chosen for it: the simplest head, so
that encoders differ by their states alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from prefill_router.evaluation.comparison import against
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters
from prefill_router.storage import read_json

OTHER, OWN_STATES = "best other encoder", "own states"
PAIRED = "best encoder for each target"
SIZE, STEPS = "encoder parameters", "training steps"
CHECKPOINTED = "reader-m"
"""The zoo's encoder of which early copies were kept."""


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


def scaling(study: Study) -> pd.DataFrame:
    """Measure every encoder of a study with one head, and say how large and trained it is.

    The likeliest target is asked.

    Returns
    -------
    pandas.DataFrame
        By `encoder` "AUC", averaged over targets, and "gap closed", with differences (`versus` is
        an encoder then) of the main encoder from each other and, for the zoo, of the checkpointed
        one from its own earlier copies; `SIZE` and `STEPS` (the zoo's models state them) are
        numbers without an interval.
    """
    copies = checkpoints(study) if study.is_zoo else {}
    places = {name: name for name in study.encoders} | copies
    at = held_out(study)
    predicted = {name: at.join(predictions(study, OWN, [place])) for name, place in places.items()}
    pairs = against(study.parameters.encoder, study.encoders)
    pairs += against(list(copies)[-1], copies) if copies else []
    found = at.likeliest(predicted, pairs)
    counts = []
    for name, place in places.items():
        source = study.source(place)
        counts.append(counted(Quantity(SIZE, encoder=name), n_parameters(source)))
        if study.is_zoo and (source.location / "recipe.json").exists():
            steps = read_json(source.location / "recipe.json")["step"]
            counts.append(counted(Quantity(STEPS, encoder=name), steps))
    measured = found.assign(encoder=found["router"], router=OWN)
    return pd.concat([measured, results(counts)], ignore_index=True)


def checkpoints(study: Study) -> dict[str, str]:
    """Return the names and places of the checkpointed encoder's copies, by training step.

    The first, before any step, is made from its recipe's seed and kept in the study's store.
    """
    from prefill_router.zoo.recipes import RECIPES
    from prefill_router.zoo.training import build_model, export

    recipe = RECIPES[CHECKPOINTED]

    def build(directory: Path) -> None:
        export(build_model(recipe), recipe, directory, 0)

    untrained = study.store.get("untrained-copy", {"recipe": vars(recipe)}, build, stage="zoo")
    final = f"zoo/{CHECKPOINTED}"
    early = {f"{final}-step-{step}": f"{final}-step-{step}" for step in recipe.checkpoints}
    return {f"{final}-step-0": str(untrained), **early, final: final}
