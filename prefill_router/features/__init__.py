"""Features of each target: principal components of the layer and pooling chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prefill_router.errors import InputError, did_you_mean
from prefill_router.features.selection import Choice
from prefill_router.probes.decomposition import Decomposition, decompose
from prefill_router.progress import track

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations


class TargetFeatures:
    """Standardised, PCA-reduced features f_k for each target [T].

    Parameters
    ----------
    choices : sequence of Choice
        One a target. Targets that read the same states share one decomposition.

    Attributes
    ----------
    decompositions_ : dict
        From (encoder, layer, pooling) to the fitted `Decomposition`.
    """

    def __init__(self, choices: Sequence[Choice]):
        self.choices = choices

    def fit(self, activations: Mapping[str, Activations], rows: np.ndarray) -> TargetFeatures:
        """Fit scalers and principal components on the training rows alone.

        Parameters
        ----------
        activations : mapping of str to Activations
            By the encoder's name.
        rows : ndarray of int
            Training rows.

        Returns
        -------
        TargetFeatures

        Raises
        ------
        InputError
            If a choice names an encoder, layer or pooling that is not there.
        """
        largest: dict[tuple[str, int, str], int] = {}
        for choice in self.choices:
            place = (choice.encoder, choice.layer, choice.pooling)
            largest[place] = max(choice.dimension, largest.get(place, 0))
        self.decompositions_: dict[tuple[str, int, str], Decomposition] = {
            place: decompose(_states(activations, place)[rows], dimension)
            for place, dimension in track(largest.items(), "Reducing states", len(largest))
        }
        return self

    def transform(
        self, activations: Mapping[str, Activations], rows: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return the features f_k, each (n, d_k) in float32, of all queries or of `rows`.

        ``np.hstack`` of them is x = [f_1 | ... | f_K], what the shared trunk reads.

        Raises
        ------
        InputError
            As for `fit`.
        """
        reduced = {}
        for place, decomposition in self.decompositions_.items():
            states = _states(activations, place)
            states = states if rows is None else states[rows]
            reduced[place] = decomposition.transform(states).astype(np.float32)
        return [
            reduced[choice.encoder, choice.layer, choice.pooling][:, : choice.dimension]
            for choice in self.choices
        ]


def _states(activations: Mapping[str, Activations], place: tuple[str, int, str]) -> np.ndarray:
    """The states (N, D) at an (encoder, layer, pooling)."""
    encoder, layer, pooling = place
    if encoder not in activations:
        hint = did_you_mean(encoder, activations)
        raise InputError(f"No activations of encoder {encoder!r}.{hint}")
    for what, value, known in (
        ("layer", layer, activations[encoder].layers),
        ("pooling", pooling, activations[encoder].poolings),
    ):
        if value not in known:
            raise InputError(f"Encoder {encoder!r} has no {what} {value!r}; it has {list(known)}.")
    return activations[encoder].states(layer, pooling)
