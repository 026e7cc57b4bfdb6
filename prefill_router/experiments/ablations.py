"""Ablations of SharedTrunkNet: one thing changed at a time, the rest as in the recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from prefill_router.experiments.fold import Fold
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.study import Study
from prefill_router.features.selection import Choice, choose
from prefill_router.progress import track
from prefill_router.trunk import SharedTrunkEnsemble

FIRST = "ensemble: the first network alone"
BEST = "ensemble: the best network alone"
ALL = "ensemble: all networks"
BY_BRIER = "ensemble: kept by Brier score"
AT_RANDOM = "ensemble: kept at random"

BY_NETWORK = ("losses", "briers", "epochs")

Predictions = list[np.ndarray]
"""P(correct) in each fold, (N, K) each."""


@dataclass(frozen=True)
class Variant:
    """What is trained in place of the recipe.

    Attributes
    ----------
    settings : mapping
        Parameters of `SharedTrunkEnsemble` that differ from its defaults.
    features : callable
        From a fold to what the networks read, (N, D).
    separate : bool
        One network of this size for each target, instead of one for all.
    by_rows : bool
        Cut the inner split by rows, whatever their groups.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    features: Callable[[Fold], np.ndarray] = field(default_factory=lambda: Fold.features)
    separate: bool = False
    by_rows: bool = False


@dataclass(frozen=True)
class Networks:
    """Every network trained for a variant in one fold, S of them.

    Attributes
    ----------
    p : ndarray of shape (S, N, K)
        P(correct) of all rows by each network, in the order of their seeds.
    losses, briers : ndarrays of shape (S, H)
        Binary cross-entropy and Brier score on the rows that stopped each network; H is 1 for a
        shared trunk, K for separate heads.
    epochs : ndarray of shape (S, H)
        How many each was trained for.
    """

    p: np.ndarray
    losses: np.ndarray
    briers: np.ndarray
    epochs: np.ndarray

    def average(self, keep: int, by: np.ndarray | None = None) -> np.ndarray:
        """Return the mean P(correct), (N, K), of the `keep` networks least in `by`, or in loss."""
        order = np.argsort(self.losses if by is None else by, axis=0, kind="stable")[:keep]
        kept = np.broadcast_to(order, (keep, self.p.shape[2]))
        return np.mean([self.p[kept[i], :, range(len(kept[i]))].T for i in range(keep)], axis=0)


def variants(study: Study) -> dict[str, Variant]:
    """Return what is trained, by a name ``"kind: change"``; the recipe is the first.

    Parameters
    ----------
    study : Study
        Its PCA dimensions but the largest are each given to every target.

    Returns
    -------
    dict of str to Variant
    """
    smaller = sorted(study.parameters.dimensions)[:-1]
    return {
        PRIMARY: Variant(),
        "heads: one network per target": Variant(separate=True),
        "split: another for each network": Variant({"split": "published"}),
        "split: another for each, groups cut": Variant({"split": "published"}, by_rows=True),
        "dropout: none": Variant({"dropout": (0.0, 0.0)}),
        "dropout: 0.5 and 0.5": Variant({"dropout": (0.5, 0.5)}),
        "width: 64 and 32": Variant({"hidden": (64, 32)}),
        "width: 512 and 256": Variant({"hidden": (512, 256)}),
        "depth: no hidden layer": Variant({"hidden": (), "dropout": ()}),
        "depth: one hidden layer": Variant({"hidden": (256,), "dropout": (0.3,)}),
        "depth: three hidden layers": Variant(
            {"hidden": (256, 128, 64), "dropout": (0.3, 0.2, 0.2)}
        ),
        "features: each column once": Variant(features=Fold.distinct_features),
        "features: one layer for all": Variant(features=one_layer),
        "features: all layers": Variant(features=all_layers),
        **{
            f"features: {d} components a target": Variant(
                features=lambda fold, d=d: own_layers(fold, d)
            )
            for d in smaller
        },
    }


def one_layer(fold: Fold) -> np.ndarray:
    """f of the one layer, pooling and dimension whose AUC, averaged over targets, is best."""
    table = fold.study.layer_auc(fold.encoders[0])
    table = table[table["fold"].eq(fold.fold) & ~table["constant"].astype(bool)]
    place = ["encoder", "layer", "pooling", "dimension"]
    means = table.groupby(place, as_index=False)["auc"].mean().assign(target=0)
    return np.hstack(fold.reduced(choose(means)))


def all_layers(fold: Fold) -> np.ndarray:
    """Every layer and pooling side by side, reduced so that x is no wider than the recipe's."""
    encoder = fold.encoders[0]
    table = fold.study.layer_auc(encoder)
    table = table[table["fold"].eq(fold.fold) & ~table["constant"].astype(bool)]
    places = table[["layer", "pooling"]].drop_duplicates().itertuples(index=False)
    places = [(int(layer), pooling) for layer, pooling in places]
    width = sum(choice.dimension for choice in fold.study.choices([encoder], fold.fold))
    share = max(1, width // len(places))
    return np.hstack(fold.reduced([Choice(encoder, *place, share) for place in places]))


def own_layers(fold: Fold, dimension: int) -> np.ndarray:
    """x of the recipe, but that every target has as many components."""
    chosen = fold.study.choices(fold.encoders, fold.fold)
    return np.hstack(fold.reduced([replace(choice, dimension=dimension) for choice in chosen]))


def train_variant(fold: Fold, variant: Variant) -> Networks:
    """Train a variant's networks on a fold's training rows, those of one shape together."""
    p, train = fold.study.parameters, fold.split.train
    x, Y = variant.features(fold), fold.correct
    groups = np.arange(len(Y)) if variant.by_rows else fold.study.labels.group
    settings = {"device": fold.study.training_device, **variant.settings}
    ensemble = SharedTrunkEnsemble(p.n_seeds, p.n_seeds, random_state=p.seed, **settings)
    heads = [[k] for k in range(Y.shape[1])] if variant.separate else [slice(None)]
    return join_heads(
        [_networks(ensemble, x, Y[:, head], train, groups) for head in track(heads, "Heads")]
    )


def join_heads(heads: list[Networks]) -> Networks:
    """Return networks that predict some targets each as networks that predict all."""
    return Networks(
        np.concatenate([head.p for head in heads], axis=2),
        *(np.hstack([getattr(head, name) for head in heads]) for name in BY_NETWORK),
    )


def _networks(
    ensemble: SharedTrunkEnsemble,
    x: np.ndarray,
    Y: np.ndarray,
    train: np.ndarray,
    groups: np.ndarray,
) -> Networks:
    rows = train[~np.isnan(Y[train]).all(axis=1)]  # what has no label teaches nothing
    if len(rows) == 0:
        unknown = [np.zeros((ensemble.n_seeds, 1))] * len(BY_NETWORK)
        return Networks(np.full((ensemble.n_seeds, *Y.shape), 0.5), *unknown)
    ensemble.fit(x[rows], Y[rows], groups[rows])
    p = ensemble.predict_each(x)[np.argsort(ensemble.kept_)]  # in the order of seeds
    held = [rows[held] for held in ensemble.held_out_]
    briers = [np.nanmean((p[s, own] - Y[own]) ** 2) for s, own in enumerate(held)]
    epochs = [len(history["train"]) for history in ensemble.histories_]
    by_network = (ensemble.validation_losses_, briers, epochs)
    return Networks(p, *(np.array(values, dtype=float)[:, None] for values in by_network))


def trained(study: Study, name: str) -> list[Networks]:
    """Return the networks of a variant, a key of `variants`, in each fold, trained once."""
    p, variant = study.parameters, variants(study)[name]
    settings = [p.dimensions, p.criterion, p.inner_folds, p.n_seeds]
    key = study.key(*settings) | {"variant": name, "states": study.states_key(p.encoder)}
    key["changes"] = dict(variant.settings)

    def build(fold: int, directory: Path) -> None:
        networks = train_variant(Fold(study, fold, [p.encoder]), variant)
        save_file({k: np.ascontiguousarray(v) for k, v in vars(networks).items()},
                  directory / "networks.safetensors")  # fmt: skip

    paths = [
        study.store.get(
            "ablation", key | {"fold": f}, lambda d, f=f: build(f, d), stage="experiments"
        )
        for f in range(len(study.splits))
    ]
    return [Networks(**load_file(path / "networks.safetensors")) for path in paths]


def configurations(study: Study) -> dict[str, Predictions]:
    """Return P(correct) of every configuration in each fold, the recipe's first.

    Variants are averaged as the recipe is, over the networks with the least validation loss; the
    recipe's own networks are also averaged in other ways, without training anything anew.
    """
    p = study.parameters
    names = list(variants(study))
    found = {name: trained(study, name) for name in track(names, "Training variants")}
    result = {name: [fold.average(p.keep) for fold in folds] for name, folds in found.items()}
    recipe = found[PRIMARY]
    result |= {
        FIRST: [fold.p[0] for fold in recipe],
        BEST: [fold.average(1) for fold in recipe],
        ALL: [fold.average(p.n_seeds) for fold in recipe],
        BY_BRIER: [fold.average(p.keep, fold.briers) for fold in recipe],
        AT_RANDOM: _drawn(study, recipe)[0],
    }
    return result


def repeats(study: Study) -> tuple[dict[str, Predictions], list[tuple[str, str]]]:
    """Return what other seeds make of the configurations, and which pairs of them to compare.

    Of a variant, the network of each seed alone, beside the recipe's of the same seed; of those
    ensembles of the recipe's networks that leave a choice of them open, other choices, beside the
    recipe's ensemble.

    Returns
    -------
    p : dict of str to list of (N, K) arrays
        Named ``"A, seed 1"`` and so on, after the configuration A.
    pairs : list of (str, str)
    """
    recipe = trained(study, PRIMARY)
    p = {PRIMARY: [fold.average(study.parameters.keep) for fold in recipe]}
    pairs = []
    seeds = range(study.parameters.n_seeds)
    for name in variants(study):
        folds = trained(study, name)
        for s in seeds:
            p[f"{name}, seed {s + 1}"] = [fold.p[s] for fold in folds]
            if name != PRIMARY:
                pairs.append((f"{name}, seed {s + 1}", f"{PRIMARY}, seed {s + 1}"))
    for s, drawn in zip(seeds, _drawn(study, recipe), strict=True):
        p[f"{AT_RANDOM}, seed {s + 1}"] = drawn
        p[f"{FIRST}, seed {s + 1}"] = p[f"{PRIMARY}, seed {s + 1}"]
        pairs += [(f"{name}, seed {s + 1}", PRIMARY) for name in (FIRST, AT_RANDOM)]
    return p, pairs


def _drawn(study: Study, recipe: list[Networks]) -> list[Predictions]:
    """Averages of as many of the recipe's networks as it keeps, drawn at random, one a seed."""
    n_seeds, keep = study.parameters.n_seeds, study.parameters.keep
    rng = np.random.default_rng(study.parameters.seed)
    draws = [rng.permutation(n_seeds)[:keep] for _ in range(n_seeds)]
    return [[fold.p[draw].mean(axis=0) for fold in recipe] for draw in draws]
