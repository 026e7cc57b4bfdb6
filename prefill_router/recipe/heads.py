"""Heads: from features to P(correct), fitted once, kept as tensors, applied in NumPy.

A `Predictor` is what a router saves and computes with: pooled states to P(correct) by NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.utils.validation import has_fit_parameter

from prefill_router.baselines.classifiers import RidgePath, TargetLogistic, join_parts, split_labels
from prefill_router.features import Components, blockwise
from prefill_router.features.logistic import predict_logistic
from prefill_router.labels.splits import Split
from prefill_router.metrics import pairwise_brier
from prefill_router.recipe.calibration import Calibration

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations
    from prefill_router.recipe import Recipe
    from prefill_router.trunk import SharedTrunkEnsemble

Tensors = dict[str, np.ndarray]

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C of logistic regressions
PENALTIES = tuple(np.logspace(-3, 3, 13))  # of ridge regressions
COLUMNS = 1024
"""Components that all layers share evenly, for a head that reads every layer."""


@dataclass(frozen=True)
class HeadData:
    """What a head is fitted to.

    Attributes
    ----------
    features : ndarray of shape (N, D)
        Components of all places, each once.
    columns : ndarray of int
        Where x = [f_1 | ... | f_K] stands among them, with repeats.
    correct : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    groups : ndarray of shape (N,)
    split : Split
        Training rows to fit on, and validation rows to choose settings on.
    recipe : Recipe
    """

    features: np.ndarray
    columns: np.ndarray
    correct: np.ndarray
    groups: np.ndarray
    split: Split
    recipe: Recipe


@dataclass(frozen=True)
class Head:
    """One way from features to P(correct).

    Attributes
    ----------
    fit : callable
        From `HeadData` to the fitted model and its tensors.
    predict : callable
        From tensors and features (N, D) to P(correct), (N, K) float64.
    all_layers : bool
        Whether it reads every layer and pooling, instead of those chosen for each target.
    """

    fit: Callable[[HeadData], tuple[Any, Tensors]]
    predict: Callable[[Tensors, np.ndarray], np.ndarray]
    all_layers: bool = False


def fit_trunk(data: HeadData) -> tuple[Any, Tensors]:
    """Train SharedTrunkNets on x = [f_1 | ... | f_K] [T].

    Columns that several targets share are repeated in training, as published, and their weights
    are summed afterwards: the tensors read each column once.
    """
    x = data.features[:, data.columns]
    ensemble = train_networks(data.recipe, x, data.correct, data.groups, data.split.train)
    layers = [
        [(part.weight.detach().numpy().T, part.bias.detach().numpy()) for part in net.linears]
        for net in ensemble.networks_
    ]
    tensors: Tensors = {"labelled": ensemble.labelled_}
    for i in range(len(layers[0])):
        tensors[f"weight.{i}"] = np.stack([net[i][0] for net in layers]).copy("C")
        tensors[f"bias.{i}"] = np.stack([net[i][1] for net in layers])[:, None]
    first = tensors["weight.0"]
    merged = np.zeros((len(first), data.features.shape[1], first.shape[2]), first.dtype)
    np.add.at(merged, (slice(None), data.columns), first)
    return ensemble, tensors | {"weight.0": merged}


def train_networks(
    recipe: Recipe, x: np.ndarray, Y: np.ndarray, groups: np.ndarray, rows: np.ndarray, **other: Any
) -> SharedTrunkEnsemble:
    """Train a recipe's SharedTrunkNets on those of `rows` that have a label.

    `other` are parameters of `SharedTrunkEnsemble` that the recipe does not set, or sets otherwise.
    """
    from prefill_router.extraction.models import training_device  # torch, to train alone
    from prefill_router.trunk import SharedTrunkEnsemble

    settings = {
        "n_seeds": recipe.n_seeds,
        "keep": recipe.keep,
        "random_state": recipe.seed,
        "device": training_device(recipe.device),
    }
    rows = labelled(rows, Y)
    return SharedTrunkEnsemble(**settings | other).fit(x[rows], Y[rows], groups[rows])


def labelled(rows: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Return those of `rows` in which some target has a label."""
    return rows[~np.isnan(Y[rows]).all(axis=1)]


def predict_each_network(tensors: Tensors, features: np.ndarray) -> np.ndarray:
    """Return P(correct) by each of S networks, best first, (S, N, K) float64."""
    last = sum(name.startswith("weight.") for name in tensors) - 1
    x = features
    for i in range(last):
        x = np.maximum(np.matmul(x, tensors[f"weight.{i}"]) + tensors[f"bias.{i}"], 0)
    p = expit(np.matmul(x, tensors[f"weight.{last}"]) + tensors[f"bias.{last}"])
    return np.where(tensors["labelled"], p.astype(np.float64), 0.5)


def fit_logistic_head(data: HeadData) -> tuple[Any, Tensors]:
    """Fit one logistic regression per target; C has the least Brier score on validation rows."""
    models = [TargetLogistic(C) for C in STRENGTHS]
    best = tuned(models, data.features, data.correct, data.split)
    return best, {"coef": best.coef_, "intercept": best.intercept_}


def tuned(
    candidates: Sequence[BaseEstimator],
    X: np.ndarray,
    Y: np.ndarray,
    split: Split,
    groups: np.ndarray | None = None,
) -> BaseEstimator:
    """Fit candidates on training rows, and return that with the least validation Brier score.

    Candidates whose `fit` takes groups, to cut off an inner part, get those of their rows.
    """
    train, held = split.train, split.validation
    for model in candidates:
        grouped = groups is not None and has_fit_parameter(model, "groups")
        model.fit(X[train], Y[train], *([groups[train]] if grouped else []))
    return min(candidates, key=lambda model: _mean((model.predict_proba(X[held]) - Y[held]) ** 2))


def fit_ridge(data: HeadData) -> tuple[Any, Tensors]:
    """Regress each query's easiness and the targets' deviations from it, with two penalties.

    On validation rows, that of the deviations has the least pairwise Brier score, and that of
    easiness then the least Brier score.
    """
    X, Y, train, held = data.features, data.correct, data.split.train, data.split.validation
    path = RidgePath(PENALTIES).fit(X[train], split_labels(Y[train]))
    parts = path.predict(X[held])
    scores = [_mean(pairwise_brier(part[:, 1:], Y[held])) for part in parts]
    best = int(np.argmin(scores))
    joined = [join_parts(part[:, 0], parts[best][:, 1:]) for part in parts]
    mean = int(np.argmin([_mean((p - Y[held]) ** 2) for p in joined]))
    coef = np.column_stack([path.coef_[mean][:, :1], path.coef_[best][:, 1:]])
    return path, {"coef": coef, "intercept": path.y_mean_ - path.x_mean_ @ coef}


def predict_ridge(tensors: Tensors, features: np.ndarray) -> np.ndarray:
    """Return P(correct) of predicted easiness and deviations."""
    parts = np.asarray(features, dtype=np.float64) @ tensors["coef"] + tensors["intercept"]
    return join_parts(parts[:, 0], parts[:, 1:])


def score(p: np.ndarray, correct: np.ndarray) -> float:
    """Return the pairwise Brier score of P(correct); of one target alone, its Brier score."""
    pairs = pairwise_brier(p, correct)
    return _mean((p - correct) ** 2 if np.isnan(pairs).all() else pairs)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


HEADS = {
    "trunk": Head(fit_trunk, lambda tensors, X: predict_each_network(tensors, X).mean(axis=0)),
    "logistic": Head(fit_logistic_head, lambda tensors, X: predict_logistic(X, **tensors)),
    "ridge": Head(fit_ridge, predict_ridge, all_layers=True),
}


@dataclass(frozen=True)
class Predictor(Components):
    """States at P places -> components -> head -> calibrated P(correct) of K targets.

    Attributes
    ----------
    places, centre, projection
        As in `Components`.
    head : str
        A key of `HEADS`.
    tensors : dict of str to ndarray
        The fitted head.
    calibration : Calibration
    """

    head: str
    tensors: dict[str, np.ndarray]
    calibration: Calibration

    def raw(self, features: np.ndarray) -> np.ndarray:
        """Return the head's P(correct), (N, K) float64, before calibration."""
        return blockwise(lambda X: HEADS[self.head].predict(self.tensors, X), features)

    def predict_proba(
        self, activations: Activations | Mapping[str, Activations], rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Return calibrated P(correct) of all queries or of `rows`, (n, K) float64.

        A query's probabilities do not depend on which others come with it, to the last bit.

        Parameters
        ----------
        activations : Activations, or mapping of str to Activations
            Of one encoder, or by the encoder's name.
        rows : ndarray of int, optional

        Raises
        ------
        InputError
            If an encoder, a layer or a pooling is not there.
        """
        return self.calibration.apply(self.raw(self.features(self.read(activations, rows))))
