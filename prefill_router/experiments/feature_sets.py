"""Feature sets and the heads that read them: fitted on training rows, tuned on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from prefill_router.experiments.fold import Fold, FoldFit
from prefill_router.experiments.study import Study
from prefill_router.features.logistic import fit_logistic, predict_logistic
from prefill_router.features.selection import Choice, choose

LAST = "last layer only"
ONE = "one layer per target"
BY_J = "one layer per target by J"
ALL = "all layers"
PAIRED = "best encoder per target"
SEVERAL = "several encoders"

LOGISTIC, TRUNK = "logistic", "SharedTrunkNet"
PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths C of the logistic head's penalty; validation chooses, for each target."""
PER_LAYER = 64
"""At most so many principal components of each layer and pooling are read by `ALL`."""

Features = list[np.ndarray]
"""What a head reads: one matrix (N, d_k) a target, or a single one (N, d) for all of them."""


def feature_candidates(
    study: Study, features: str, encoders: Sequence[str], fold: int
) -> list[Features]:
    """Return what a feature set may be, fitted on a fold's training rows; validation chooses.

    Parameters
    ----------
    study : Study
    features : str
        `LAST`: of the encoder's last layer, the pooling and dimension that cross-validation on
        training rows prefers for each target. `ONE`: the same of any layer, as published; of
        several encoders it is `PAIRED`. `BY_J`: layer and pooling by J instead. `ALL`: every layer
        and pooling side by side, for all targets, with each of the study's dimensions up to
        `PER_LAYER`. `SEVERAL`: what `ONE` reads of each encoder, side by side, for all targets.
    encoders : sequence of str
        Whose states are read.
    fold : int

    Returns
    -------
    list of Features
    """
    study = study.like(criterion="J" if features == BY_J else "auc")  # whatever its own is
    here = Fold(study, fold, encoders)
    if features in (ONE, PAIRED, BY_J):
        return [here.features_by_target()]
    if features == SEVERAL:
        own = [Fold(study, fold, [e]).distinct_features() for e in encoders]
        return [[np.hstack(own)]]
    if features == LAST:
        table = study.layer_auc(encoders[0])
        last = table["layer"].eq(table["layer"].max()) & table["fold"].eq(fold)
        return [here.reduced(choose(table[last]))]
    states, widths = study.activations(encoders[0]), layer_widths(study, encoders[0])
    places = [
        Choice(encoders[0], layer, pooling, widths[-1])
        for layer in states.layers
        for pooling in states.poolings
    ]
    blocks = here.reduced(places)
    return [[np.hstack([block[:, :width] for block in blocks])] for width in widths]


def layer_widths(study: Study, encoder: str) -> list[int]:
    """Return how many principal components of each layer and pooling `ALL` may read."""
    largest = min(PER_LAYER, study.activations(encoder).width)
    return sorted({min(dimension, largest) for dimension in study.parameters.dimensions})


def feature_predictions(
    study: Study, features: str, encoders: Sequence[str], head: str
) -> list[np.ndarray]:
    """Return P(correct) by a head on a feature set, in each fold.

    Parameters
    ----------
    study, features, encoders
        As for `feature_candidates`.
    head : {"logistic", "SharedTrunkNet"}
        A logistic regression a target, candidate and penalty chosen by its Brier score on
        validation rows; or the study's ensemble of SharedTrunkNets on the candidate whose mean
        Brier score with logistic heads is best there.

    Returns
    -------
    list of ndarray, each of shape (N, K)
        NaN on the fold's training rows.
    """
    p = study.parameters
    settings = [p.dimensions, p.inner_folds, PENALTIES, PER_LAYER]
    key = study.key(*settings, *([p.n_seeds, p.keep] if head == TRUNK else []))
    key |= {"features": features, "head": head}
    key["states"] = {encoder: study.states_key(encoder) for encoder in encoders}

    def build(fold: int, directory: Path) -> None:
        candidates = feature_candidates(study, features, encoders, fold)
        split, Y = study.splits[fold], study.labels.correct
        if head == LOGISTIC or len(candidates) > 1:
            p_correct, best = tuned_logistic(candidates, Y, split.train, split.validation)
        if head == TRUNK:
            x = np.hstack(candidates[best if len(candidates) > 1 else 0])
            p_correct = FoldFit(study, fold, encoders, directory).trunk(x)
        p_correct = np.array(p_correct, dtype=np.float64, order="C")  # what safetensors can hold
        p_correct[split.train] = np.nan
        save_file({"p": p_correct}, directory / "p.safetensors")

    paths = [
        study.store.get(
            "feature-set", key | {"fold": f}, lambda d, f=f: build(f, d), stage="experiments"
        )
        for f in range(len(study.splits))
    ]
    return [load_file(path / "p.safetensors")["p"] for path in paths]


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
