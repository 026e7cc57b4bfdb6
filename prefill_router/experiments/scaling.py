"""Encoder scaling: what a larger encoder, or one trained for longer, tells of the targets."""

from __future__ import annotations

import math
from pathlib import Path

from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments.comparison import compare_choices, compare_probabilities
from prefill_router.experiments.routers import OWN, predictions
from prefill_router.experiments.study import Study
from prefill_router.extraction.model_size import n_parameters
from prefill_router.policy import argmax
from prefill_router.storage import read_json

SIZE, STEPS = "encoder parameters", "training steps"
CHECKPOINTED = "reader-m"
"""The zoo's encoder of which early copies were kept."""
SHOWN = ("AUC", "AUC difference", "gap closed", "gap closed difference")


def scaling(study: Study) -> list[Estimate]:
    """Measure every encoder of a study with one head, and say how large and trained it is.

    The head is a logistic regression for each target on the layer chosen for it, the same for all
    encoders, and asks the likeliest target.

    Returns
    -------
    list of Estimate
        `router` names the encoder: "AUC", averaged over targets, and "gap closed", with
        differences of the main encoder from each other and, for the zoo, of the checkpointed one
        from its own earlier copies; "encoder parameters" and "training steps" (the zoo's models
        state them) are numbers without an interval.
    """
    places = {name: name for name in study.encoders}
    copies = checkpoints(study) if study.is_zoo else {}
    places |= copies
    p = {n: study.over_folds(predictions(study, OWN, [place])) for n, place in places.items()}
    found = _compare(study, p, study.parameters.encoder)
    if copies:
        found += [
            row
            for row in _compare(study, {name: p[name] for name in copies}, list(copies)[-1])
            if "difference" in row.metric
        ]
    n = len(study.test_rows)
    for name, place in places.items():
        source = study.source(place)
        numbers = {SIZE: n_parameters(source)}
        if study.is_zoo and (source.location / "recipe.json").exists():
            numbers[STEPS] = read_json(source.location / "recipe.json")["step"]
        found += [
            Estimate(metric, name, "", "encoder", float(value), math.nan, math.nan, n)
            for metric, value in numbers.items()
        ]
    return found


def _compare(study: Study, p: dict, primary: str) -> list[Estimate]:
    rows = compare_probabilities(study, p, primary)
    choices = {name: argmax(values) for name, values in p.items()}
    rows += compare_choices(study, choices, primary)
    named = {*p, *(f"{primary} - {name}" for name in p)}
    return [r for r in rows if r.metric in SHOWN and not r.target and r.router in named]


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
