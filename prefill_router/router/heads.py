"""From pooled states to P(correct) and answer lengths, folded into a few matrix products.

A trained ensemble, its features, its calibration and the prediction of lengths say together how
states become numbers. Here scaler and principal components are one affine map, the networks one
stack of matrices, and features that several targets share are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from prefill_router.recipe.calibration import Calibration

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
