"""Ablations of SharedTrunkNet: one thing changed at a time, the rest as in the recipe.

Every configuration trains as many networks as the recipe keeps, with the same seeds, and averages
them all. Probabilities are the networks' own: no configuration is calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from prefill_router.experiments.comparison import apply_policies, compare_predictions, held_out
from prefill_router.experiments.fold import Features, FoldFit
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.experiments.study import Study
from prefill_router.features.selection import Choice, choose
from prefill_router.progress import track
from prefill_router.recipe.heads import labelled, train_networks

RECIPE = "the recipe"
ONE = "one network alone"
BEST = "the best networks of more"


def one_layer(it: FoldFit) -> Features:
    """The one layer, pooling and dimension whose AUC, averaged over targets, is best."""
    place = ["encoder", "layer", "pooling", "dimension"]
    means = _places(it).groupby(place, as_index=False)["auc"].mean().assign(target=0)
    return it.reduced(choose(means))


def all_layers(it: FoldFit) -> Features:
    """Every layer and pooling side by side, reduced so that x is no wider than the recipe's."""
    places = _places(it)[["encoder", "layer", "pooling"]].drop_duplicates()
    share = max(1, sum(choice.dimension for choice in it.choices) // len(places))
    places = places.itertuples(index=False)
    return [np.hstack(it.reduced([Choice(*place, dimension=share) for place in places]))]


def _places(it: FoldFit) -> pd.DataFrame:
    """Cross-validated AUC of the fold's layers, constant states left out."""
    table = it.study.layer_auc(it.encoders[0])
    return table[table["fold"].eq(it.fold) & ~table["constant"].astype(bool)]


@dataclass(frozen=True)
class Variant:
    """What is trained in place of the recipe.

    Attributes
    ----------
    features : callable
        From a fold to x, (N, D), for one trunk that all targets share; or to one matrix for each
        target, which then has networks of its own.
    settings : mapping
        Parameters of `SharedTrunkEnsemble` that differ from its defaults.
    """

    features: Callable[[FoldFit], Features] = lambda it: [it.features()]
    settings: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = {
    RECIPE: Variant(),
    "one network per target": Variant(lambda it: it.reduced(it.choices)),
    "one layer for all targets": Variant(one_layer),
    "all layers": Variant(all_layers),
    "no hidden layer": Variant(settings={"hidden": (), "dropout": ()}),
    "no dropout": Variant(settings={"dropout": (0.0, 0.0)}),
    "another inner split per network": Variant(settings={"split": "published"}),
}


def train_variant(it: FoldFit, variant: Variant) -> np.ndarray:
    """Return P(correct) by each network, in the order of seeds, (S, N, K); one half unlabelled."""
    features, Y, keep = variant.features(it), it.labels.correct, it.study.parameters.keep
    p = np.full((keep, *Y.shape), 0.5)
    for x, targets in zip(
        features, np.array_split(np.arange(Y.shape[1]), len(features)), strict=True
    ):
        if len(labelled(it.split.train, Y[:, targets])):
            ensemble = train_networks(
                it.study.recipe(), x, Y[:, targets], it.labels.group, it.split.train,
                **{"n_seeds": keep, "keep": keep, **variant.settings},
            )  # fmt: skip
            p[:, :, targets] = ensemble.predict_each(x)[np.argsort(ensemble.kept_)]
    return p


def trained(study: Study, name: str) -> list[np.ndarray]:
    """Return `train_variant` of one of `VARIANTS` in each fold, trained once."""
    p = study.parameters

    def train(fold: int) -> dict[str, np.ndarray]:
        return {"p": train_variant(FoldFit(study, fold, [p.encoder]), VARIANTS[name])}

    settings, folds = [name, p.dimensions, p.criterion, p.inner_folds, p.keep], study.splits
    about = {"encoders": [p.encoder]}
    return [
        found["p"] for found in study.kept("ablation", train, range(len(folds)), *settings, **about)
    ]


def ablate(study: Study) -> pd.DataFrame:
    """Compare every change with the recipe, on test rows.

    Returns
    -------
    pandas.DataFrame
        Gap closed, AUC and Brier score of each configuration, the `router`, alone and `versus`
        `RECIPE`; with `seed`, and no interval, the same difference between single networks of one
        seed, which says how far other seeds move it. `ONE` is a single network, and `BEST` the
        networks that the recipe keeps of all it trains. And the significance of the differences in
        gap closed, corrected for the number of changes.
    """
    each = {name: trained(study, name) for name in track(VARIANTS, "Training variants")}
    p = {name: [fold.mean(axis=0) for fold in folds] for name, folds in each.items()}
    p[ONE] = [fold[0] for fold in each[RECIPE]]
    p[BEST] = predictions(study, PRIMARY, calibrated=False)
    choices = {name: apply_policies(study, by_fold).choice for name, by_fold in p.items()}
    found = [compare_predictions(study, p, [(name, RECIPE) for name in p if name != RECIPE])]
    found.append(held_out(study).significance(choices, RECIPE))
    for seed in range(study.parameters.keep):
        single = {name: [fold[seed] for fold in folds] for name, folds in each.items()}
        pairs = [(name, RECIPE) for name in VARIANTS if name != RECIPE]
        single |= {ONE: single[RECIPE], "average": p[RECIPE]}
        rows = compare_predictions(study, single, [*pairs, (ONE, "average")], n_resamples=1)
        rows = rows[rows["versus"] != ""]
        found.append(rows.assign(versus=RECIPE, seed=seed, lower=np.nan, upper=np.nan))
    rows = pd.concat(found, ignore_index=True)
    return rows[rows["target"] == ""]
