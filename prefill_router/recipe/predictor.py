"""From pooled states to P(correct), in NumPy alone: what a router saves and computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prefill_router.features import Components, blockwise
from prefill_router.recipe.calibration import Calibration
from prefill_router.recipe.heads import HEADS

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations


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

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return calibrated P(correct), (N, K) float64."""
        return self.calibration.apply(self.raw(features))

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
        return self.probabilities(self.features(self.read(activations, rows)))
