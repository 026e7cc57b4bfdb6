"""Heads: from features to P(correct), fitted once, kept as tensors, applied in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from prefill_router.baselines.classifiers import TargetLogistic
from prefill_router.baselines.ridge import RidgePath, join_parts, split_labels
from prefill_router.features.logistic import predict_logistic
from prefill_router.metrics import pairwise_brier

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
    train, validation : ndarray of int
        Rows to fit on, and rows to choose settings on.
    n_seeds, keep, seed, device
        As in `Recipe`.
    """

    features: np.ndarray
    columns: np.ndarray
    correct: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    n_seeds: int
    keep: int
    seed: int
    device: Any


@dataclass(frozen=True)
class Head:
    """One way from features to P(correct).

    Attributes
    ----------
    fit : callable
        From `HeadData` to the fitted model, its tensors, and how many settings were compared.
    predict : callable
        From tensors and features (N, D) to P(correct), (N, K) float64.
    all_layers : bool
        Whether it reads every layer and pooling, instead of those chosen for each target.
    """

    fit: Callable[[HeadData], tuple[Any, Tensors, int]]
    predict: Callable[[Tensors, np.ndarray], np.ndarray]
    all_layers: bool = False


def fit_trunk(data: HeadData) -> tuple[Any, Tensors, int]:
    """Train SharedTrunkNets on x = [f_1 | ... | f_K] [T].

    Columns that several targets share are repeated in training, as published, and their weights
    are summed afterwards: the tensors read each column once.
    """
    from prefill_router.extraction.models import training_device  # torch, to train alone
    from prefill_router.trunk import SharedTrunkEnsemble

    rows = data.train[~np.isnan(data.correct[data.train]).all(axis=1)]
    ensemble = SharedTrunkEnsemble(
        data.n_seeds, data.keep, random_state=data.seed, device=training_device(data.device)
    )
    x = data.features[rows][:, data.columns]
    ensemble.fit(x, data.correct[rows], data.groups[rows])
    layers = [
        [(part.weight.detach().numpy().T, part.bias.detach().numpy()) for part in net.linears]
        for net in ensemble.networks_
    ]
    tensors: Tensors = {"labelled": ensemble.labelled_}
    for i in range(len(layers[0])):
        tensors[f"weight.{i}"] = np.stack([net[i][0] for net in layers]).copy("C")
        tensors[f"bias.{i}"] = np.stack([net[i][1] for net in layers])[:, None]
    first = tensors["weight.0"]
    tensors["weight.0"] = merge_inputs(first, data.columns, data.features.shape[1])
    return ensemble, tensors, 1


def merge_inputs(weight: np.ndarray, columns: Sequence[int], n_inputs: int) -> np.ndarray:
    """Return weights (S, n_inputs, H) on distinct columns, of weights on repeated `columns`."""
    merged = np.zeros((len(weight), n_inputs, weight.shape[2]), weight.dtype)
    np.add.at(merged, (slice(None), columns), weight)
    return merged


def predict_each_network(tensors: Tensors, features: np.ndarray) -> np.ndarray:
    """Return P(correct) by each of S networks, best first, (S, N, K) float64."""
    last = sum(name.startswith("weight.") for name in tensors) - 1
    x = features
    for i in range(last):
        x = np.maximum(np.matmul(x, tensors[f"weight.{i}"]) + tensors[f"bias.{i}"], 0)
    p = expit(np.matmul(x, tensors[f"weight.{last}"]) + tensors[f"bias.{last}"])
    return np.where(tensors["labelled"], p.astype(np.float64), 0.5)


def predict_trunk(tensors: Tensors, features: np.ndarray) -> np.ndarray:
    """Return the networks' mean P(correct)."""
    return predict_each_network(tensors, features).mean(axis=0)


def fit_logistic_head(data: HeadData) -> tuple[Any, Tensors, int]:
    """Fit one logistic regression per target; C has the least Brier score on validation rows."""
    held = data.features[data.validation], data.correct[data.validation]
    X, Y = data.features[data.train], data.correct[data.train]
    models = [TargetLogistic(C=C).fit(X, Y) for C in STRENGTHS]
    briers = [_mean((model.predict_proba(held[0]) - held[1]) ** 2) for model in models]
    best = models[int(np.argmin(briers))]
    return best, {"coef": best.coef_, "intercept": best.intercept_}, len(models)


def predict_logistic_head(tensors: Tensors, features: np.ndarray) -> np.ndarray:
    """Return P(correct) by logistic regression."""
    return predict_logistic(features, tensors["coef"], tensors["intercept"])


def fit_ridge(data: HeadData) -> tuple[Any, Tensors, int]:
    """Regress each query's easiness and the targets' deviations from it, with two penalties.

    On validation rows, that of the deviations has the least pairwise Brier score, and that of
    easiness then the least Brier score.
    """
    labels = split_labels(data.correct[data.train])
    path = RidgePath(PENALTIES).fit(data.features[data.train], labels)
    parts = path.predict(data.features[data.validation])
    mean, deviations = choose_parts(parts, data.correct[data.validation])
    coef = np.column_stack([path.coef_[mean][:, :1], path.coef_[deviations][:, 1:]])
    tensors = {"coef": coef, "intercept": path.y_mean_ - path.x_mean_ @ coef}
    return path, tensors, 2 * len(parts)


def choose_parts(parts: np.ndarray, correct: np.ndarray) -> tuple[int, int]:
    """Choose among P predictions of means and of deviations, each for itself.

    Parameters
    ----------
    parts : ndarray of shape (P, n, 1 + K)
        For P settings: the predicted mean over targets and their deviations.
    correct : ndarray of shape (n, K)

    Returns
    -------
    mean, deviations : int
        The deviations with the least pairwise Brier score, and the means that then give the least
        Brier score.
    """
    scores = [_mean(pairwise_brier(part[:, 1:], correct)) for part in parts]
    best = int(np.argmin(scores))
    joined = [join_parts(part[:, 0], parts[best][:, 1:]) for part in parts]
    return int(np.argmin([_mean((p - correct) ** 2) for p in joined])), best


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
    "trunk": Head(fit_trunk, predict_trunk),
    "logistic": Head(fit_logistic_head, predict_logistic_head),
    "ridge": Head(fit_ridge, predict_ridge, all_layers=True),
}
