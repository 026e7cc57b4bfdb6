"""Ablations of SharedTrunkNet: one thing changed at a time, the rest as in the recipe.

Every configuration trains as many networks as the recipe keeps, with the same seeds, and averages
them all. Probabilities are the networks' own, not calibrated, and the likeliest target is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.fold import Features, FoldFit
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.experiments.study import Study
from prefill_router.features.selection import Choice, choose
from prefill_router.policy import argmax
from prefill_router.progress import track
from prefill_router.recipe.heads import labelled, train_networks

RECIPE = "the recipe"
ONE = "one network alone"
BEST = "the best networks of more"


def as_chosen(it: FoldFit) -> Features:
    """x = [f_1 | ... | f_K], as in the recipe."""
    return [it.features()]


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


VARIANTS = {
    RECIPE: (as_chosen, {}),
    "one network per target": (lambda it: it.reduced(it.choices), {}),
    "one layer for all targets": (one_layer, {}),
    "all layers": (all_layers, {}),
    "no hidden layer": (as_chosen, {"hidden": (), "dropout": ()}),
    "no dropout": (as_chosen, {"dropout": (0.0, 0.0)}),
    "another inner split per network": (as_chosen, {"split": "published"}),
}
"""What is trained in place of the recipe: features and settings of `train_variant`."""


def train_variant(
    it: FoldFit, features: Callable[[FoldFit], Features], settings: Mapping[str, Any]
) -> np.ndarray:
    """Return P(correct) by each network, in the order of seeds, (S, N, K); one half unlabelled.

    Parameters
    ----------
    it : FoldFit
    features : callable
        From a fold to x, (N, D), for one trunk that all targets share; or to one matrix for each
        target, which then has networks of its own.
    settings : mapping
        Parameters of `SharedTrunkEnsemble` that differ from its defaults.
    """
    parts, Y, keep = features(it), it.labels.correct, it.study.parameters.keep
    p = np.full((keep, *Y.shape), 0.5)
    for x, targets in zip(parts, np.array_split(np.arange(Y.shape[1]), len(parts)), strict=True):
        if len(labelled(it.split.train, Y[:, targets])):
            ensemble = train_networks(
                it.study.recipe(), x, Y[:, targets], it.labels.group, it.split.train,
                **{"n_seeds": keep, "keep": keep, **settings},
            )  # fmt: skip
            p[:, :, targets] = ensemble.predict_each(x)[np.argsort(ensemble.kept_)]
    return p


def trained(study: Study, name: str) -> list[np.ndarray]:
    """Return `train_variant` of one of `VARIANTS` in each fold, trained once."""
    p = study.parameters

    def train(fold: int) -> dict[str, np.ndarray]:
        return {"p": train_variant(FoldFit(study, fold, [p.encoder]), *VARIANTS[name])}

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
        Gap closed and AUC of each configuration, the `router`, alone and `versus` `RECIPE`; with
        `seed`, and no interval, the same difference between single networks of one seed, which says
        how far other seeds move it. `ONE` is a single network, and `BEST` the networks that the
        recipe keeps of all it trains. And the significance of the differences in gap closed,
        corrected for the number of changes.
    """
    at = held_out(study)
    each = {  # P(correct) of the test queries by each network, (S, n, K)
        name: np.stack([at.join(of) for of in zip(*trained(study, name), strict=True)])
        for name in track(VARIANTS, "Training variants")
    }
    p = {name: networks.mean(axis=0) for name, networks in each.items()}
    p |= {ONE: each[RECIPE][0], BEST: at.join(predictions(study, PRIMARY, calibrated=False))}
    found = [
        at.likeliest(p, [(name, RECIPE) for name in p if name != RECIPE]),
        at.significance({name: argmax(values) for name, values in p.items()}, RECIPE),
    ]
    pairs = [(name, RECIPE) for name in VARIANTS if name != RECIPE]
    for seed in range(study.parameters.keep):
        single = {name: networks[seed] for name, networks in each.items()}
        single |= {ONE: single[RECIPE], "average": p[RECIPE]}
        rows = replace(at, n_resamples=1).likeliest(single, [*pairs, (ONE, "average")])
        rows = rows[rows["versus"] != ""]
        found.append(rows.assign(versus=RECIPE, seed=seed, lower=np.nan, upper=np.nan))
    return pd.concat(found, ignore_index=True)
