"""Encoder scaling: what a larger encoder, or one trained for longer, tells of the targets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.comparison import against
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters
from prefill_router.storage import read_json

SIZE, STEPS = "encoder parameters", "training steps"
CHECKPOINTED = "reader-m"
"""The zoo's encoder of which early copies were kept."""


def scaling(study: Study) -> pd.DataFrame:
    """Measure every encoder of a study with one head, and say how large and trained it is.

    The head is a logistic regression for each target on the layer chosen for it, the same for all
    encoders, and asks the likeliest target.

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
    aucs = at.probabilities(predicted, pairs, ["AUC"])
    choices = {name: policy.argmax(values) for name, values in predicted.items()}
    gaps = at.choices(choices, pairs)
    wanted = {"metric": ["AUC", "gap closed"], "router": list(places), "versus": None}
    found = select(pd.concat([aucs, gaps]), **wanted)
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
