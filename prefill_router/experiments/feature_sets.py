"""Feature sets against each other on test rows: does choosing a layer, or an encoder, matter?

They are fitted on training rows and tuned on validation rows, and read by two heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prefill_router.evaluation.results import Quantity, counted, results
from prefill_router.experiments.comparison import compare_predictions
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import RouterSpec, predictions
from prefill_router.experiments.study import Study
from prefill_router.features.logistic import fit_logistic, predict_logistic
from prefill_router.features.selection import Choice, choose
from prefill_router.metrics import brier, macro
from prefill_router.progress import track

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

Features = list[np.ndarray]
"""What a head reads: one matrix (N, d_k) a target, or a single one (N, d) for all of them."""


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
    p = study.parameters
    sets = [(name, [p.encoder]) for name in (ONE, LAST, BY_J, ALL)]
    if len(study.trained_encoders) > 1:
        sets += [(name, study.trained_encoders) for name in (PAIRED, SEVERAL)]
    if p.untrained:
        sets.append((ONE, [p.untrained]))
    tried = [
        counted(
            Quantity(TRIED, features, encoder=_encoder(encoders), split="train"),
            n_configurations(study, features, encoders),
        )
        for features, encoders in sets
    ]
    found = [evaluate_sets(study, sets, head) for head in (LOGISTIC, TRUNK)]
    return pd.concat([*found, results(tried)], ignore_index=True)


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
    sets = {(features, _encoder(encoders)): encoders for features, encoders in sets}

    def fitted(calibrated: bool) -> dict[tuple[str, str], list[np.ndarray]]:
        return {
            (features, name): predictions(
                study, f"{features}, {head}", encoders, FEATURE_SETS, calibrated
            )
            for (features, name), encoders in track(sets.items(), f"Fitting feature sets, {head}")
        }

    first, *others = sets
    compared = compare_predictions(study, fitted(True), [(name, first) for name in others])
    held, labels = [split.validation for split in study.splits], study.labels.correct
    rows = []
    for name, raw in fitted(False).items():  # not calibrated: that knows these rows
        briers = [macro(brier(p[v], labels[v])) for p, v in zip(raw, held, strict=True)]
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
    encoder = it.encoders[0]
    study = it.study.like(criterion="J" if features == BY_J else "auc")  # whatever its own is
    if features in (ONE, PAIRED, BY_J):
        return [FoldFit(study, it.fold, it.encoders).features_by_target()]
    if features == SEVERAL:
        own = [FoldFit(study, it.fold, [name]).distinct_features() for name in it.encoders]
        return [[np.hstack(own)]]
    if features == LAST:
        table = study.layer_auc(encoder)
        last = table["layer"].eq(table["layer"].max()) & table["fold"].eq(it.fold)
        return [it.reduced(choose(table[last]))]
    states, widths = study.activations(encoder), layer_widths(study, encoder)
    places = [
        Choice(encoder, layer, pooling, widths[-1])
        for layer in states.layers
        for pooling in states.poolings
    ]
    blocks = it.reduced(places)
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


def fit_set(it: FoldFit, features: str, head: str) -> np.ndarray:
    """Return P(correct), (N, K), by a head on a feature set.

    `LOGISTIC`: see `tuned_logistic`. `TRUNK`: the study's SharedTrunkNets on the candidate whose
    mean Brier score with logistic heads is best on validation rows.
    """
    candidates, best = feature_candidates(it, features), 0
    if head == LOGISTIC or len(candidates) > 1:
        split = it.split
        p, best = tuned_logistic(candidates, it.correct, split.train, split.validation)
    return p if head == LOGISTIC else it.trunk(np.hstack(candidates[best]))


def tuned_logistic(
    candidates: Sequence[Features], Y: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> tuple[np.ndarray, int]:
    """Fit logistic heads, and choose candidate and penalty by Brier score on validation rows.

    Parameters
    ----------
    candidates : sequence of Features
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    train, validation : ndarray of int

    Returns
    -------
    p : ndarray of shape (N, K)
        Each target's P(correct) by what is best for it; by the first candidate and the strongest
        penalty for a target without validation labels.
    best : int
        The candidate whose mean over targets is best.
    """
    p = np.stack([_logistic(features, Y, train) for features in candidates])
    squares = (p[:, :, validation] - Y[validation]) ** 2
    known = ~np.isnan(squares)
    scores = np.where(known, squares, 0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
    flat = scores.reshape(-1, Y.shape[1]).argmin(axis=0)
    chosen = p.reshape(-1, *Y.shape)[flat, :, np.arange(Y.shape[1])].T
    return chosen, int(scores.min(axis=1).mean(axis=1).argmin())


def _logistic(features: Features, Y: np.ndarray, train: np.ndarray) -> np.ndarray:
    """P(correct) of all rows by each penalty, (C, N, K)."""
    targets = [slice(None)] if len(features) == 1 else [slice(k, k + 1) for k in range(Y.shape[1])]
    parts = []
    for X, of in zip(features, targets, strict=True):
        # A rotation changes no prediction under this penalty; the solver likes principal axes.
        X = X.astype(np.float64)
        X = X @ np.linalg.eigh(X[train].T @ X[train])[1]
        fits = [fit_logistic(X[train], Y[train, of], C) for C in PENALTIES]
        parts.append([predict_logistic(X, *fit) for fit in fits])
    return np.concatenate(parts, axis=2)


def _encoder(encoders: Sequence[str]) -> str:
    return encoders[0] if len(encoders) == 1 else ""


FEATURE_SETS = {
    f"{features}, {head}": RouterSpec(
        lambda it, features=features, head=head: fit_set(it, features, head)
    )
    for features in (LAST, ONE, BY_J, ALL, PAIRED, SEVERAL)
    for head in (LOGISTIC, TRUNK)
}
