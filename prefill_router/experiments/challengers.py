"""What might beat the published recipe: more of the states, and heads aimed at what decides routes.

Each challenger is a `RouterSpec`: fitted on a fold's training rows, its settings chosen on
validation rows. Which of them is reported on test is decided by
`prefill_router.experiments.challenge`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.model_selection import GroupKFold

from prefill_router.baselines.linear import TargetLogistic
from prefill_router.baselines.ridge import KernelFeatures, RidgePath, join_parts, split_labels
from prefill_router.evaluation.metrics import pairwise_brier
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import RouterSpec
from prefill_router.experiments.study import Study

PENALTIES = tuple(np.logspace(-3, 3, 13))
COLUMNS = 1024
"""Columns of features that all layers share, for heads whose fit is a decomposition."""
FEWER = 512
"""The same for heads that are fitted step by step."""
STRENGTHS = (0.0001, 0.001, 0.01, 0.1)  # C of logistic regressions
WIDTHS = (0.5, 1.0, 2.0)  # of kernels
OUTSIDE = (0.3, 0.1)  # weights of rows on which all targets agree


def chosen_parts(it: FoldFit, parts: np.ndarray) -> tuple[float, np.ndarray]:
    """Choose on validation rows between predictions of means and of deviations, each for itself.

    Parameters
    ----------
    it : FoldFit
    parts : ndarray of shape (P, N, 1 + K)
        For P settings, of every query: the predicted mean over targets and their deviations.

    Returns
    -------
    score : float
        The least pairwise Brier score of deviations on validation rows.
    p : ndarray of shape (N, K)
        Those deviations, on the means that then give the least Brier score.
    """
    it.tried.append(2 * len(parts))
    rows = it.split.validation
    Y = it.correct[rows]
    scores = [np.nanmean(pairwise_brier(part[rows, 1:], Y)) for part in parts]
    best = int(np.argmin(scores))
    candidates = [join_parts(part[:, 0], parts[best][:, 1:]) for part in parts]
    briers = [np.nanmean((p[rows] - Y) ** 2) for p in candidates]
    return float(scores[best]), candidates[int(np.argmin(briers))]


def ridge(it: FoldFit, X: np.ndarray, outside: float = 1.0) -> tuple[float, np.ndarray]:
    """Ridge regression of means and deviations on features `X` (N, D); see `chosen_parts`.

    Training rows on which all targets agree count `outside`, the others 1.
    """
    train = it.split.train
    labels = it.correct[train]
    agreed = np.isnan(zone_labels(labels)[1]).all(axis=1)
    weights = np.where(agreed, outside, 1.0)
    path = RidgePath(PENALTIES).fit(X[train], split_labels(labels), weights)
    return chosen_parts(it, path.predict(X))


def best_of(found: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Return the P(correct) with the least score."""
    return min(found, key=lambda pair: pair[0])[1]


def weighted_ridge(it: FoldFit) -> np.ndarray:
    """Ridge regression on all layers, with less weight on queries that all targets agree on."""
    X = np.hstack(it.layers(COLUMNS))
    return best_of([ridge(it, X, outside) for outside in OUTSIDE])


def kernel_ridge(it: FoldFit) -> np.ndarray:
    """Ridge regression in the space of a Gaussian kernel on all layers."""
    X, seed = np.hstack(it.layers(COLUMNS)), it.study.parameters.seed
    kernels = [KernelFeatures(w, random_state=seed).fit(X[it.split.train]) for w in WIDTHS]
    return best_of([ridge(it, kernel.transform(X)) for kernel in kernels])


def with_words(it: FoldFit) -> np.ndarray:
    """Ridge regression on all layers and on the words of the query."""
    layers, words = np.hstack(it.layers(COLUMNS)), it.latent_semantics()
    per_layer = layers[it.split.train].var() / words[it.split.train].var()
    sizes = (1.0, 3.0)  # of a word's column beside a layer's
    return best_of([ridge(it, np.hstack([layers, s * per_layer**0.5 * words])) for s in sizes])


def stacked(it: FoldFit) -> np.ndarray:
    """Ridge regression on each layer's own predictions, held out by inner folds of training."""
    train, p = it.split.train, it.study.parameters
    labels = split_labels(it.correct[train])
    groups = it.study.labels.group[train]
    folds = GroupKFold(p.inner_folds, shuffle=True, random_state=p.seed)
    folds = list(folds.split(labels, groups=groups))
    predicted = []
    for X in it.layers(COLUMNS):
        path = RidgePath(PENALTIES)
        held_out = np.empty((len(PENALTIES), *labels.shape))
        for fitted, held in folds:
            path.fit(X[train[fitted]], labels[fitted])
            held_out[:, held] = path.predict(X[train[held]])
        best = ((held_out - labels) ** 2).mean(axis=1).argmin(axis=0)  # a penalty a column
        columns = path.fit(X[train], labels).predict(X)
        columns[:, train] = held_out
        predicted.append(columns[best, :, np.arange(len(best))].T)
        it.tried.append(len(PENALTIES))
    return ridge(it, np.hstack(predicted))[1]


def zone_labels(Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split labels (N, K) into those of two questions.

    Returns
    -------
    shared : ndarray of shape (N, 2)
        Are all targets right? Do they disagree? NaN with fewer than two labels.
    within : ndarray of shape (N, K)
        The labels where targets disagree, else NaN.
    """
    known = (~np.isnan(Y)).sum(axis=1)
    right = np.nansum(Y, axis=1)
    disagree = (right > 0) & (right < known)
    shared = np.column_stack([right == known, disagree]).astype(np.float64)
    shared[known < 2] = np.nan
    return shared, np.where(disagree[:, None], Y, np.nan)


def compose(shared: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return P(all right) + P(targets disagree) P(right | they disagree), (N, K).

    Parameters
    ----------
    shared : ndarray of shape (N, 2)
        The first two, each predicted by itself: together at most 1 is taken.
    within : ndarray of shape (N, K)
    """
    all_right, disagree = shared[:, :1], np.minimum(shared[:, 1:], 1 - shared[:, :1])
    return all_right + disagree * within


def factored_logistic(it: FoldFit) -> np.ndarray:
    """Logistic regressions on all layers for the zone a query is in, and for targets within it."""
    X = np.hstack(it.layers(FEWER))
    parts = [it.tuned(X, [TargetLogistic(C) for C in STRENGTHS], Y=Y) for Y in zones(it)]
    return compose(*parts)


def factored_trunk(it: FoldFit) -> np.ndarray:
    """SharedTrunkNets on all layers for the zone a query is in, and for targets within it."""
    x = np.hstack(it.layers(FEWER))
    return compose(*[it.ensemble(x, Y).predict_proba(x) for Y in zones(it)])


def zones(it: FoldFit) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of `zone_labels` for all rows."""
    return zone_labels(it.correct)


def _main(study: Study) -> list[str]:
    return [study.parameters.encoder]


def _trained(study: Study) -> list[str]:
    return study.trained_encoders


def _on_layers(head: Callable[[FoldFit, np.ndarray], np.ndarray], n_columns: int) -> Callable:
    return lambda it: head(it, np.hstack(it.layers(n_columns)))


def _ridge(it: FoldFit, X: np.ndarray) -> np.ndarray:
    return ridge(it, X)[1]


def _logistic(it: FoldFit, X: np.ndarray) -> np.ndarray:
    return it.tuned(X, [TargetLogistic(C) for C in STRENGTHS])


CHALLENGERS = {
    "ridge, all layers": RouterSpec(_on_layers(_ridge, COLUMNS), _main),
    "ridge, all layers, weighted": RouterSpec(weighted_ridge, _main),
    "ridge, all layers and words": RouterSpec(with_words, _main),
    "ridge, stacked layers": RouterSpec(stacked, _main),
    "kernel ridge, all layers": RouterSpec(kernel_ridge, _main),
    "logistic, all layers": RouterSpec(_on_layers(_logistic, FEWER), _main),
    "factored logistic, all layers": RouterSpec(factored_logistic, _main),
    "SharedTrunkNet, all layers": RouterSpec(_on_layers(FoldFit.trunk, FEWER), _main),
    "factored SharedTrunkNet, all layers": RouterSpec(factored_trunk, _main),
    "ridge, all encoders": RouterSpec(_on_layers(_ridge, COLUMNS), _trained),
    "ridge, stacked encoders": RouterSpec(stacked, _trained),
    "kernel ridge, all encoders": RouterSpec(kernel_ridge, _trained),
    "SharedTrunkNet, all encoders": RouterSpec(_on_layers(FoldFit.trunk, FEWER), _trained),
}


def challenger_names(study: Study) -> list[str]:
    """Return the challengers that a study allows: some need several encoders."""
    several = len(study.trained_encoders) > 1
    return [n for n, router in CHALLENGERS.items() if several or router.reads is not _trained]
