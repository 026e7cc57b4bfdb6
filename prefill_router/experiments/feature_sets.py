"""Feature sets against each other on test rows: does choosing a layer, or an encoder, matter?

They are fitted on training rows and tuned on validation rows, and read by two heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from prefill_router.baselines.classifiers import TargetLogistic
from prefill_router.evaluation.results import Quantity, counted, results
from prefill_router.experiments.comparison import compare_predictions
from prefill_router.experiments.fold import Features, FoldFit, tuned_by_target
from prefill_router.experiments.routers import RouterSpec, fitted
from prefill_router.experiments.study import Study
from prefill_router.features.selection import choose
from prefill_router.labels.splits import Split
from prefill_router.metrics import brier, macro
from prefill_router.progress import track
from prefill_router.recipe import all_places

LAST = "last layer only"
ONE = "one layer per target"
BY_J = "one layer per target by J"
ALL = "all layers"
PAIRED = "best encoder per target"
SEVERAL = "several encoders"
LOGISTIC, TRUNK = "logistic", "SharedTrunkNet"
TRIED = "configurations tried"
PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths C of the logistic head's penalty; validation chooses, for each target."""
PER_LAYER = 64
"""At most so many principal components of each layer and pooling are read by `ALL`."""


def compare_features(study: Study) -> pd.DataFrame:
    """Compare the feature sets of the main encoder and of all encoders by both heads, on test rows.

    Returns
    -------
    pandas.DataFrame
        Results of router "FEATURES, HEAD" and `encoder` (empty where several are read). On test
        rows AUC and Brier score, by target and on average, and gap closed by the policy that
        validation prefers; each `versus` the recipe: `ONE` of the main encoder by the same head. On
        validation rows the Brier score. And `TRIED`, configurations for each target, of each set.
    """
    p, trained = study.parameters, study.trained_encoders
    sets = [(name, [p.encoder]) for name in (ONE, LAST, BY_J, ALL)]
    sets += [(name, trained) for name in (PAIRED, SEVERAL) if len(trained) > 1]
    sets += [(ONE, [p.untrained])] if p.untrained else []
    tried = results(
        counted(
            Quantity(TRIED, features, encoder=_encoder(encoders), split="train"),
            n_configurations(study, features, encoders),
        )
        for features, encoders in sets
    )
    found = [evaluate_sets(study, sets, head) for head in (LOGISTIC, TRUNK)]
    return pd.concat([*found, tried], ignore_index=True)


def compare_layers(study: Study) -> pd.DataFrame:
    """Say for each encoder but the main one whether choosing a layer matters, on test rows.

    Returns
    -------
    pandas.DataFrame
        `ALL` and `LAST` `versus` `ONE` of the same encoder, by logistic heads; means over targets.
    """
    found = [
        evaluate_sets(study, [(features, [encoder]) for features in (ONE, ALL, LAST)], LOGISTIC)
        for encoder in track(study.encoders, "Comparing layers")
        if encoder != study.parameters.encoder
    ]
    rows = pd.concat([results(), *found], ignore_index=True)
    return rows[rows["versus"].ne("") & rows["target"].eq("")]


def evaluate_sets(
    study: Study, sets: Sequence[tuple[str, Sequence[str]]], head: str
) -> pd.DataFrame:
    """Evaluate (features, encoders) by a head; the first is what the others are compared with."""
    by_set = {
        (features, _encoder(encoders)): fitted(study, feature_set(features, head), encoders)
        for features, encoders in track(sets, f"Fitting feature sets, {head}")
    }
    first, *others = by_set
    p = {name: [fold["p"] for fold in folds] for name, folds in by_set.items()}
    compared = compare_predictions(study, p, [(name, first) for name in others])
    held, labels = [split.validation for split in study.splits], study.labels.correct
    rows = []
    for name, folds in by_set.items():  # not calibrated: that knows these rows
        pairs = zip(folds, held, strict=True)
        briers = [macro(brier(fold["raw"][v], labels[v])) for fold, v in pairs]
        of = Quantity("Brier", name, split="validation", n=sum(map(len, held)))
        rows.append(counted(of, np.mean(briers)))
    found = pd.concat([compared, results(rows)], ignore_index=True)
    return found.assign(
        encoder=found["router"].str[1],
        router=found["router"].str[0] + f", {head}",
        versus=(found["versus"].str[0] + f", {head}").fillna(""),
    )


def feature_candidates(it: FoldFit, features: str) -> list[Features]:
    """Return what a feature set may be, fitted on a fold's training rows; validation chooses.

    Parameters
    ----------
    it : FoldFit
        And the encoders whose states are read.
    features : str
        `LAST`: of the encoder's last layer, the pooling and dimension that cross-validation on
        training rows prefers for each target. `ONE`: the same of any layer, as published; of
        several encoders it is `PAIRED`. `BY_J`: layer and pooling by J instead. `ALL`: every layer
        and pooling side by side, for all targets, with each of the study's dimensions up to
        `PER_LAYER`. `SEVERAL`: what `ONE` reads of each encoder, side by side, for all targets.

    Returns
    -------
    list of Features
    """
    study = it.study.like(criterion="J" if features == BY_J else "auc")  # whatever its own is
    if features in (ONE, PAIRED, BY_J):
        it = FoldFit(study, it.fold, it.encoders)
        return [it.reduced(it.choices)]
    if features == SEVERAL:
        own = [FoldFit(study, it.fold, [name]).distinct_features() for name in it.encoders]
        return [[np.hstack(own)]]
    encoder = it.encoders[0]
    if features == LAST:
        table = study.layer_auc(encoder)
        last = table["layer"].eq(table["layer"].max()) & table["fold"].eq(it.fold)
        return [it.reduced(choose(table[last]))]
    widths = layer_widths(study, encoder)
    blocks = it.reduced([replace(c, dimension=widths[-1]) for c in all_places(it.states)])
    return [[np.hstack([block[:, :width] for block in blocks])] for width in widths]


def layer_widths(study: Study, encoder: str) -> list[int]:
    """Return how many principal components of each layer and pooling `ALL` may read."""
    largest = min(PER_LAYER, study.activations(encoder).width)
    return sorted({min(dimension, largest) for dimension in study.parameters.dimensions})


def n_configurations(study: Study, features: str, encoders: Sequence[str]) -> int:
    """Return how many configurations were compared for each target and fold.

    Encoders, layers, poolings and dimensions compared on training rows, plus candidates and
    penalties compared on validation rows.
    """
    if features == ALL:
        return len(layer_widths(study, encoders[0])) * len(PENALTIES)
    tables = [study.layer_auc(encoder) for encoder in encoders]
    if features == LAST:
        tables = [table[table["layer"] == table["layer"].max()] for table in tables]
    n_tables = study.labels.n_targets * len(study.splits)
    return sum(len(table) // n_tables for table in tables) + len(PENALTIES)


def feature_set(features: str, head: str) -> RouterSpec:
    """Return the router that reads a feature set by a head.

    `LOGISTIC`: features and penalty are those that validation rows prefer for each target. `TRUNK`:
    the study's SharedTrunkNets on the features with the best logistic heads on average.
    """

    def fit(it: FoldFit) -> np.ndarray:
        candidates, best = feature_candidates(it, features), 0
        if head == LOGISTIC or len(candidates) > 1:
            p, best = tuned_logistic(candidates, it.labels.correct, it.split)
        return p if head == LOGISTIC else it.trunk(np.hstack(candidates[best]))

    return RouterSpec(f"{features}, {head}", fit)


def tuned_logistic(
    candidates: Sequence[Features], Y: np.ndarray, split: Split
) -> tuple[np.ndarray, int]:
    """Choose features and penalty of logistic heads as `tuned_by_target` does."""

    def rotated(X: np.ndarray) -> np.ndarray:
        """Turn to principal axes, which the solver likes; that changes no prediction."""
        X = X.astype(np.float64)
        return X @ np.linalg.eigh(X[split.train].T @ X[split.train])[1]

    sets = [[rotated(X) for X in features] for features in candidates]
    return tuned_by_target(sets, [TargetLogistic(C) for C in PENALTIES], Y, split)


def _encoder(encoders: Sequence[str]) -> str:
    return encoders[0] if len(encoders) == 1 else ""
