"""Scale: do larger encoders, or longer trained ones, tell more?

Every encoder is read by the same ridge regression on all of its layers, so that encoders differ by
their states alone.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prefill_router.evaluation.comparison import against
from prefill_router.evaluation.results import results
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import RIDGE, predictions
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters, zoo_names
from prefill_router.storage import read_json

N_QUERIES = 3000
"""Queries that every checkpoint reads anew."""
STEP = "-step-"
"""In the name of a checkpoint: before it the encoder's name, after it the number of steps."""


def by_size(study: Study) -> pd.DataFrame:
    """Measure the encoders of a study that are no targets, on the test queries.

    Returns
    -------
    pandas.DataFrame
        Results, by encoder (`router`) and its number of parameters (`x`): "AUC", averaged over
        targets, and "gap closed", asking the likeliest target; and differences between the main
        encoder and each other.
    """
    main, own = study.parameters.encoder, {*study.labels.targets} - {study.parameters.encoder}
    names = [name for name in study.encoders if name not in own]
    sizes = {name: n_parameters(study.source(name)) for name in names}
    return _measure(study, {name: name for name in sizes}, sizes, main)


def by_training(study: Study) -> pd.DataFrame:
    """Measure one encoder of the zoo at several steps of its training, on `N_QUERIES` queries.

    Returns
    -------
    pandas.DataFrame
        Results as of `by_size`, of the checkpoints by training steps (`x`), and differences between
        the last and each earlier one. Empty for other labels than the zoo's.
    """
    if not study.is_zoo:
        return results()
    places = checkpoints(study)
    names = {f"{steps:,} steps": place for steps, place in places.items()}
    last = places[max(places)]
    n = min(study.parameters.n_queries or N_QUERIES, N_QUERIES)
    few = study.like(n_queries=n, encoder=last, layers="all")
    rows = _measure(few, names, dict(zip(names, places, strict=True)), list(names)[-1])
    return rows.assign(encoder=last)


def _measure(study: Study, places: dict[str, str], x: dict[str, int], main: str) -> pd.DataFrame:
    at = held_out(study)
    p = {name: at.join(predictions(study, RIDGE, [place])) for name, place in places.items()}
    found = at.likeliest(p, against(main, p))
    return found.assign(x=found["router"].map(x))


def checkpoints(study: Study) -> dict[int, str]:
    """Return the places of the zoo's checkpointed encoder, by training steps.

    The first, before any step, is made from its recipe's seed and kept in the study's store.
    """
    from prefill_router.zoo.recipes import RECIPES
    from prefill_router.zoo.training import build_model, export

    early = [name for name in zoo_names() if STEP in name]
    final = early[0].split(STEP)[0]
    recipe = RECIPES[final.removeprefix("zoo/")]

    def build(directory: Path) -> None:
        export(build_model(recipe), recipe, directory, 0)

    begun = study.store.get("untrained-copy", {"recipe": vars(recipe)}, build, stage="zoo")
    steps = read_json(study.source(final).location / "recipe.json")["step"]
    places = {int(name.split(STEP)[1]): name for name in early} | {0: str(begun), steps: final}
    return dict(sorted(places.items()))
