"""Feature sets against each other: built on training, tuned on validation, reported on test."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from prefill_router.bootstrap import Interval, auc_intervals, intervals
from prefill_router.comparison import apply_policies, compare_choices, test_labels
from prefill_router.estimates import Estimate, rows_of
from prefill_router.features import Choice, TargetFeatures, choose
from prefill_router.fitting import Fitting
from prefill_router.logistic import fit_logistic, predict_logistic
from prefill_router.progress import track
from prefill_router.study import Study

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
RESAMPLES = 1000

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
    criterion = {"criterion": "J" if features == BY_J else "auc"}  # whatever the study's own is
    study = copy.copy(study)
    study.parameters = study.parameters.model_copy(update=criterion)
    if features in (ONE, PAIRED, BY_J):
        return [Fitting(study, fold, encoders, study.run_dir).features_by_target()]
    if features == SEVERAL:
        own = [Fitting(study, fold, [e], study.run_dir).distinct_features() for e in encoders]
        return [[np.hstack(own)]]
    activations = {encoder: study.activations(encoder) for encoder in encoders}
    train = study.splits[fold].train
    if features == LAST:
        table = study.layer_auc(encoders[0])
        last = table["layer"].eq(table["layer"].max()) & table["fold"].eq(fold)
        chosen = TargetFeatures(choose(table[last])).fit(activations, train)
        return [chosen.transform(activations)]
    states, widths = activations[encoders[0]], layer_widths(study, encoders[0])
    places = [
        Choice(encoders[0], layer, pooling, widths[-1])
        for layer in states.layers
        for pooling in states.poolings
    ]
    blocks = TargetFeatures(places).fit(activations, train).transform(activations)
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
            p_correct = Fitting(study, fold, encoders, directory).trunk(x)
        p_correct = np.array(p_correct, dtype=np.float64, order="C")  # what safetensors can hold
        p_correct[split.train] = np.nan
        save_file({"p": p_correct}, directory / "p.safetensors")

    paths = [
        study.store.get("feature-set", key | {"fold": fold}, lambda d, f=fold: build(f, d))
        for fold in range(len(study.splits))
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
    brier = np.where(known, squares, 0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
    flat = brier.reshape(-1, Y.shape[1]).argmin(axis=0)
    chosen = p.reshape(-1, *Y.shape)[flat, :, np.arange(Y.shape[1])].T
    return chosen, int(brier.min(axis=1).mean(axis=1).argmin())


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


def compare_features(study: Study) -> list[Estimate]:
    """Compare the feature sets of the main encoder and of all encoders by both heads, on test rows.

    Returns
    -------
    list of Estimate
        `router` is "FEATURES, ENCODER, HEAD". On test rows "AUC" and "Brier" (by target and, with
        an empty `target`, their mean) and "gap closed", by the policy that validation prefers;
        "... difference" of each from that of `ONE`, the recipe, with the same head and on the same
        resamples. On validation rows "Brier". And "configurations tried" for each target.
    """
    p = study.parameters
    trained = study.trained_encoders
    sets = [(LAST, [p.encoder]), (ONE, [p.encoder]), (BY_J, [p.encoder]), (ALL, [p.encoder])]
    if len(trained) > 1:
        sets += [(PAIRED, trained), (SEVERAL, trained)]
    if p.untrained:
        sets.append((ONE, [p.untrained]))
    found = []
    for head in (LOGISTIC, TRUNK):
        by_set = {
            _name(features, encoders, head): feature_predictions(study, features, encoders, head)
            for features, encoders in track(sets, f"Fitting feature sets, {head}")
        }
        found += evaluate_features(study, by_set, _name(ONE, [p.encoder], head))
    for features, encoders in sets:
        tried = Interval(n_configurations(study, features, encoders), np.nan, np.nan)
        name = (_name(features, encoders, "each head"), "")
        found += rows_of("configurations tried", [name], [tried], "train", study.labels.n_queries)
    return found


def compare_layers(study: Study) -> list[Estimate]:
    """Say for each encoder but the main one whether choosing a layer matters, on test rows.

    Returns
    -------
    list of Estimate
        Of `ALL` and `LAST`, by logistic heads, the differences from the same encoder's `ONE`, as
        `compare_features` has them for the main encoder; means over targets.
    """
    found = []
    others = [encoder for encoder in study.encoders if encoder != study.parameters.encoder]
    for encoder in track(others, "Comparing layers"):
        by_set = {
            _name(features, [encoder], LOGISTIC): feature_predictions(
                study, features, [encoder], LOGISTIC
            )
            for features in (ONE, ALL, LAST)
        }
        rows = evaluate_features(study, by_set, _name(ONE, [encoder], LOGISTIC))
        found += [row for row in rows if row.metric.endswith("difference") and not row.target]
    return found


def evaluate_features(
    study: Study, by_set: Mapping[str, Sequence[np.ndarray]], primary: str
) -> list[Estimate]:
    """Evaluate P(correct), (N, K) by fold, of each set; differences are each minus `primary`."""
    names, targets = list(by_set), [*study.labels.targets, ""]
    others = [name for name in names if name != primary]
    p = np.stack([study.over_folds(by_fold) for by_fold in by_set.values()], axis=1)
    correct = np.repeat(test_labels(study)[:, None], len(names), axis=1)
    groups = study.labels.group[study.test_rows]
    n_resamples, seed = study.parameters.n_resamples, study.parameters.seed

    def statistic(values: np.ndarray) -> np.ndarray:
        """Append means over targets, and differences from the primary."""
        values = values.reshape(len(values), len(names), -1)
        defined = ~np.isnan(values)
        count = defined.sum(axis=2)
        mean = np.where(defined, values, 0).sum(axis=2) / np.where(count, count, np.nan)
        values = np.concatenate([values, mean[..., None]], axis=2)
        first, rest = names.index(primary), [names.index(name) for name in others]
        difference = values[:, rest] - values[:, [first]]
        return np.hstack([each.reshape(len(values), -1) for each in (values, difference)])

    flat = (values.reshape(len(values), -1) for values in (p, correct, (p - correct) ** 2))
    scores, labels, squares = flat
    areas = auc_intervals(
        scores, labels, groups, statistic, min(RESAMPLES, n_resamples), seed, study.test_folds
    )
    briers = intervals(squares, groups, statistic, n_resamples, seed)
    known = ~np.isnan(correct[:, 0])
    counts = [*known.sum(axis=0).tolist(), int(known.any(axis=1).sum())]
    labels = [(name, target) for name in names for target in targets]
    pairs = [(name, target) for name in others for target in targets]
    found = []
    for metric, values in (("AUC", areas), ("Brier", briers)):
        first, rest = values[: len(labels)], values[len(labels) :]
        found += rows_of(metric, labels, first, "test", counts * len(names))
        found += rows_of(f"{metric} difference", pairs, rest, "test", counts * len(others))
    for name, by_fold in by_set.items():
        rows = [split.validation for split in study.splits]
        parts = zip(by_fold, rows, strict=True)
        brier = np.mean([_brier(p, study.labels.correct, held) for p, held in parts])
        one = Interval(float(brier), np.nan, np.nan)
        found += rows_of("Brier", [(name, "")], [one], "validation", sum(map(len, rows)))
    return found + _gaps(study, by_set, primary)


def _gaps(study: Study, by_set: Mapping[str, Sequence[np.ndarray]], primary: str) -> list[Estimate]:
    choices = {name: apply_policies(study, by_fold).choice for name, by_fold in by_set.items()}
    rows = compare_choices(study, choices, primary)
    gaps = [row for row in rows if row.metric == "gap closed" and row.router in by_set]
    turned = [
        Estimate(row.metric, row.router.removeprefix(f"{primary} - "), "", row.split,
                 -row.estimate, -row.upper, -row.lower, row.n)
        for row in rows
        if row.metric == "gap closed difference"
    ]  # fmt: skip
    return gaps + turned


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


def _brier(p: np.ndarray, Y: np.ndarray, rows: np.ndarray) -> float:
    """Mean over targets of their Brier scores on `rows`."""
    squares = (p[rows] - Y[rows]) ** 2
    known = ~np.isnan(squares)
    by_target = np.where(known, squares, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return float(by_target[known.any(axis=0)].mean()) if known.any() else np.nan


def _name(features: str, encoders: Sequence[str], head: str) -> str:
    return f"{features}, {encoders[0] if len(encoders) == 1 else 'trained encoders'}, {head}"
