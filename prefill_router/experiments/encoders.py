"""Encoders: whose states predict which target, and what do larger, longer trained ones tell?

Each target is predicted by a logistic regression on the layer chosen for it: the simplest head, so
that encoders differ by their states alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from prefill_router.evaluation.comparison import against
from prefill_router.evaluation.results import Quantity, counted, results
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters
from prefill_router.storage import read_json

OTHER, OWN_STATES = "best other encoder", "own states"
SIZE, STEPS = "encoder parameters", "training steps"
CHECKPOINTED = "reader-m"
"""The zoo's encoder of which early copies were kept."""


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
