"""Ablations of SharedTrunkNet: one thing changed at a time, the rest as in the recipe.

Probabilities are the networks' own: no configuration is calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from prefill_router.evaluation.results import Quantity, counted, one, results, select
from prefill_router.evaluation.significance import holm
from prefill_router.experiments.comparison import compare_predictions
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.study import Study
from prefill_router.features.selection import Choice, choose
from prefill_router.progress import track
from prefill_router.recipe.heads import labelled, train_networks
from prefill_router.trunk import SharedTrunkEnsemble

FIRST = "the first network alone"
BEST = "the best network alone"
ALL = "all networks"
BY_BRIER = "kept by Brier score"
AT_RANDOM = "kept at random"
KEPT = "networks averaged"
TRIED = "configurations tried"
STOPPED = "trained to the last epoch"
NORMAL = 1.96

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
    features: Callable[[FoldFit], np.ndarray] = FoldFit.features
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
    """Return what is trained, the recipe first.

    Parameters
    ----------
    study : Study
        Its PCA dimensions but the largest are each given to every target.

    Returns
    -------
    dict of str to Variant
    """
    smaller = sorted(study.parameters.dimensions)[:-1]
    three = {"hidden": (256, 128, 64), "dropout": (0.3, 0.2, 0.2)}
    return {
        PRIMARY: Variant(),
        "one network per target": Variant(separate=True),
        "another split for each network": Variant({"split": "published"}),
        "another split for each, groups cut": Variant({"split": "published"}, by_rows=True),
        "no dropout": Variant({"dropout": (0.0, 0.0)}),
        "dropout 0.5 and 0.5": Variant({"dropout": (0.5, 0.5)}),
        "widths 64 and 32": Variant({"hidden": (64, 32)}),
        "widths 512 and 256": Variant({"hidden": (512, 256)}),
        "no hidden layer": Variant({"hidden": (), "dropout": ()}),
        "one hidden layer": Variant({"hidden": (256,), "dropout": (0.3,)}),
        "three hidden layers": Variant(three),
        "each column once": Variant(features=FoldFit.distinct_features),
        "one layer for all": Variant(features=one_layer),
        "all layers": Variant(features=all_layers),
        **{
            f"{d} components per target": Variant(features=lambda it, d=d: own_layers(it, d))
            for d in smaller
        },
    }


def one_layer(it: FoldFit) -> np.ndarray:
    """f of the one layer, pooling and dimension whose AUC, averaged over targets, is best."""
    place = ["encoder", "layer", "pooling", "dimension"]
    means = _places(it).groupby(place, as_index=False)["auc"].mean().assign(target=0)
    return np.hstack(it.reduced(choose(means)))


def all_layers(it: FoldFit) -> np.ndarray:
    """Every layer and pooling side by side, reduced so that x is no wider than the recipe's."""
    places = _places(it)[["encoder", "layer", "pooling"]].drop_duplicates()
    share = max(1, sum(choice.dimension for choice in it.choices) // len(places))
    places = places.itertuples(index=False)
    return np.hstack(it.reduced([Choice(*place, dimension=share) for place in places]))


def own_layers(it: FoldFit, dimension: int) -> np.ndarray:
    """x of the recipe, but that every target has as many components."""
    return np.hstack(it.reduced([replace(choice, dimension=dimension) for choice in it.choices]))


def _places(it: FoldFit) -> pd.DataFrame:
    """Cross-validated AUC of the fold's layers, constant states left out."""
    table = it.study.layer_auc(it.encoders[0])
    return table[table["fold"].eq(it.fold) & ~table["constant"].astype(bool)]


def train_variant(it: FoldFit, variant: Variant) -> Networks:
    """Train a variant's networks on a fold's training rows, those of one shape together."""
    x, Y = variant.features(it), it.labels.correct
    groups = np.arange(len(Y)) if variant.by_rows else it.labels.group
    parts = np.split(Y, Y.shape[1], axis=1) if variant.separate else [Y]
    heads = [_train(it, variant, x, part, groups) for part in track(parts, "Heads")]
    p, *by_head = zip(*heads, strict=True)
    return Networks(np.concatenate(p, axis=2), *(np.column_stack(each) for each in by_head))


def _train(
    it: FoldFit, variant: Variant, x: np.ndarray, Y: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return P(correct), (S, N, K), and the loss, Brier score and epochs of each network, (S,)."""
    rows, n_seeds = labelled(it.split.train, Y), it.study.parameters.n_seeds
    if len(rows) == 0:
        unknown = np.zeros(n_seeds)
        return np.full((n_seeds, *Y.shape), 0.5), unknown, unknown, unknown
    settings = {"keep": n_seeds, **variant.settings}
    ensemble = train_networks(it.study.recipe(), x, Y, groups, rows, **settings)
    p = ensemble.predict_each(x)[np.argsort(ensemble.kept_)]  # in the order of seeds
    held = [rows[held] for held in ensemble.held_out_]
    briers = [np.nanmean((p[s, own] - Y[own]) ** 2) for s, own in enumerate(held)]
    epochs = [float(len(history["train"])) for history in ensemble.histories_]
    return p, ensemble.validation_losses_, briers, epochs


def trained(study: Study, name: str) -> list[Networks]:
    """Return the networks of a variant, a key of `variants`, in each fold, trained once."""
    p, variant = study.parameters, variants(study)[name]
    settings = [name, p.dimensions, p.criterion, p.inner_folds, p.n_seeds]

    def train(fold: int) -> dict[str, np.ndarray]:
        return vars(train_variant(FoldFit(study, fold, [p.encoder]), variant))

    folds = range(len(study.splits))
    found = study.kept("ablation-networks", train, folds, *settings, encoders=[p.encoder])
    return [Networks(**arrays) for arrays in found]


def configurations(study: Study, found: Mapping[str, list[Networks]]) -> dict[str, Predictions]:
    """Return P(correct) of every configuration in each fold, the recipe's first.

    Variants are averaged as the recipe is, over the networks with the least validation loss; the
    recipe's own networks are also averaged in other ways, without training anything anew.
    """
    p, recipe = study.parameters, found[PRIMARY]
    return {name: [fold.average(p.keep) for fold in folds] for name, folds in found.items()} | {
        FIRST: [fold.p[0] for fold in recipe],
        BEST: [fold.average(1) for fold in recipe],
        ALL: [fold.average(p.n_seeds) for fold in recipe],
        BY_BRIER: [fold.average(p.keep, fold.briers) for fold in recipe],
        AT_RANDOM: drawn_at_random(study, recipe)[0],
    }


def drawn_at_random(study: Study, recipe: Sequence[Networks]) -> list[Predictions]:
    """Average as many of the recipe's networks as it keeps, drawn at random: a draw per seed."""
    n_seeds, keep = study.parameters.n_seeds, study.parameters.keep
    rng = np.random.default_rng(study.parameters.seed)
    draws = [rng.permutation(n_seeds)[:keep] for _ in range(n_seeds)]
    return [[fold.p[draw].mean(axis=0) for fold in recipe] for draw in draws]


def ablate(study: Study) -> pd.DataFrame:
    """Compare every configuration with the recipe.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        On validation and on test rows: gap closed, AUC and Brier score (both averaged over targets)
        of each configuration, the `router`, alone and `versus` the recipe. With `seed`, and no
        interval: the same difference for single networks of one seed; of `FIRST` and `AT_RANDOM`,
        which choose among the recipe's networks, for another choice. A policy's tolerance is chosen
        on validation rows, so that gaps closed on those are all somewhat too good.

        Of each variant `STOPPED`, the share of networks that training did not stop early: what
        often is might gain from more epochs. Of the recipe `KEPT`, the networks it averages, and
        `TRIED`, how many configurations were compared.
    """
    found = {n: trained(study, n) for n in track(variants(study), "Training variants")}
    p = configurations(study, found)
    ensemble = "the recipe's ensemble"
    pairs = [(n, PRIMARY) for n in found if n != PRIMARY]
    pairs += [(n, ensemble) for n in (FIRST, AT_RANDOM)]
    rows = []
    for part in ("validation", "test"):
        rows.append(compare_predictions(study, p, [(n, PRIMARY) for n in p if n != PRIMARY], part))
        for s, draw in enumerate(drawn_at_random(study, found[PRIMARY])):
            single = {name: [fold.p[s] for fold in folds] for name, folds in found.items()}
            single |= {FIRST: single[PRIMARY], ensemble: p[PRIMARY], AT_RANDOM: draw}
            by_seed = compare_predictions(study, single, pairs, part, n_resamples=1)
            by_seed = by_seed[by_seed["versus"] != ""]  # estimates of differences alone are of use
            rows.append(by_seed.assign(versus=PRIMARY, seed=s, lower=np.nan, upper=np.nan))
    rows = [part[part["target"] == ""] for part in rows]
    last, of = SharedTrunkEnsemble().max_epochs, partial(Quantity, split="train")
    counts = {of(KEPT, PRIMARY): study.parameters.keep, of(TRIED, PRIMARY): len(p)}
    counts |= {of(STOPPED, n): np.mean([f.epochs == last for f in fs]) for n, fs in found.items()}
    return pd.concat([*rows, results(map(counted, counts, counts.values()))], ignore_index=True)


def changes(rows: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Return what each change makes of a metric, and whether that holds for other seeds, too.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of `ablate`.
    metric, split : str

    Returns
    -------
    pandas.DataFrame
        A row for each change: the columns of results and

        - ``seed_error``: the standard error that seeds add, NaN where no repeats say it. That of
          one network is the standard deviation over seeds; an average of m networks has its m-th
          part in variance, as if networks differed independently. What only averages the recipe's
          networks otherwise is itself repeated, so that its deviation stands as it is.
        - ``error``: with that of the bootstrap, a quarter of its interval's width or so, added as
          squares.
        - ``p``, ``p_holm``: two-sided, by a normal distribution; the latter corrected by Holm for
          all changes.
    """
    found = select(rows, metric=metric, split=split, versus=PRIMARY)
    spread = found[found["seed"].notna()].groupby("router")["estimate"].std()
    found = found[found["seed"].isna()].set_index("router", drop=False)
    keep = one(rows, metric=KEPT).estimate
    share = np.where(found.index.isin([FIRST, AT_RANDOM]), 1, np.sqrt(keep))
    seed_error = spread.reindex(found.index) / share
    bootstrap = (found["upper"] - found["lower"]) / (2 * NORMAL)
    error = np.hypot(bootstrap, seed_error.fillna(0))
    p = (2 * norm.sf(found["estimate"].abs() / error.clip(lower=1e-300))).tolist()
    found = found.assign(seed_error=seed_error, error=error, p=p)
    found["p_holm"] = holm(found["p"].fillna(1))
    return found.reset_index(drop=True)
