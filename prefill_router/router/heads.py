"""From pooled states to P(correct) and answer lengths, folded into a few matrix products.

A trained ensemble, its features, its calibration and the prediction of lengths say together how
states become numbers. Here scaler and principal components are one affine map, the networks one
stack of matrices, and features that several targets share are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from prefill_router.features import TargetFeatures
from prefill_router.recipe.calibration import Calibration
from prefill_router.trunk import SharedTrunkEnsemble

Place = tuple[int, str]


@dataclass(frozen=True)
class Heads:
    """What is computed from the states of a query at P places, (layer, pooling).

    Attributes
    ----------
    places : list of (int, str)
        The layers and poolings read.
    centre : float32 ndarray of shape (P, 1, D)
        Mean states of the training queries.
    projection : float32 ndarray of shape (P, D, d)
        From centred states to standardised principal components; unused columns are 0.
    weights, biases : lists of float32 ndarrays, (S, inputs, outputs) and (S, 1, outputs)
        Of S networks, layer by layer. The first layer's inputs are the P * d components.
    labelled : bool ndarray of shape (K,)
        Targets without any label are given probability one half.
    calibration : Calibration
    """

    places: list[Place]
    centre: np.ndarray
    projection: np.ndarray
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    labelled: np.ndarray
    calibration: Calibration

    def features(self, states: np.ndarray) -> np.ndarray:
        """Return the components (N, P * d) of states (P, N, D); both float32."""
        reduced = np.matmul(states - self.centre, self.projection)
        return reduced.swapaxes(0, 1).reshape(reduced.shape[1], -1)

    def raw(self, features: np.ndarray) -> np.ndarray:
        """Return the networks' mean P(correct), (N, K), before any calibration."""
        x = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(np.matmul(x, weight) + bias, 0)
        p = expit(np.matmul(x, self.weights[-1]) + self.biases[-1]).mean(axis=0, dtype=np.float64)
        return p if self.labelled.all() else np.where(self.labelled, p, 0.5)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return calibrated P(correct), (N, K) float64."""
        return self.calibration.apply(self.raw(features))


def fold(
    features: TargetFeatures, ensemble: SharedTrunkEnsemble, calibration: Calibration
) -> Heads:
    """Fold fitted parts into `Heads`.

    Parameters
    ----------
    features : TargetFeatures
        Fitted, of one encoder.
    ensemble : SharedTrunkEnsemble
        Fitted on those features, side by side.
    calibration : Calibration

    Returns
    -------
    Heads
        With the same probabilities but for rounding.
    """
    fitted = {(layer, pool): d for (_, layer, pool), d in features.decompositions_.items()}
    places = list(fitted)
    width = max(parts.components.shape[1] for parts in fitted.values())
    projection = np.zeros((len(places), len(next(iter(fitted.values())).mean), width), np.float32)
    for place, parts in enumerate(fitted.values()):
        columns = parts.components / parts.scale[:, None]
        projection[place, :, : columns.shape[1]] = columns
    centre = np.stack([parts.mean for parts in fitted.values()])[:, None].astype(np.float32)
    layers = [
        [
            (linear.weight.detach().numpy().T, linear.bias.detach().numpy()[None])
            for linear in net.linears
        ]
        for net in ensemble.networks_
    ]
    weights = [np.stack([net[i][0] for net in layers]).copy("C") for i in range(len(layers[0]))]
    biases = [np.stack([net[i][1] for net in layers]) for i in range(len(layers[0]))]
    dimensions = [
        min(choice.dimension, fitted[choice.layer, choice.pooling].components.shape[1])
        for choice in features.choices
    ]
    starts = np.array(
        [places.index((choice.layer, choice.pooling)) * width for choice in features.choices]
    )
    weights[0] = merge_inputs(weights[0], starts, dimensions, len(places) * width)
    return Heads(places, centre, projection, weights, biases, ensemble.labelled_, calibration)


def merge_inputs(
    weight: np.ndarray, starts: Sequence[int], dimensions: Sequence[int], n_inputs: int
) -> np.ndarray:
    """Return the weights (S, n_inputs, H) on distinct columns of ones on repeated columns.

    Inputs come in blocks: block k is the `dimensions[k]` distinct columns from `starts[k]` on.
    """
    merged = np.zeros((len(weight), n_inputs, weight.shape[2]), weight.dtype)
    at = 0
    for start, dimension in zip(starts, dimensions, strict=True):
        merged[:, start : start + dimension] += weight[:, at : at + dimension]
        at += dimension
    return merged
