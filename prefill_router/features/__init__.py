"""Features of each target: principal components of the layer and pooling chosen for it.

One affine map per layer and pooling takes pooled states to components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prefill_router.errors import InputError, did_you_mean
from prefill_router.features.selection import Choice, Place
from prefill_router.probes.decomposition import decompose
from prefill_router.progress import track

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations

BLOCK = 64
"""Rows of one matrix product; see `blockwise`."""


@dataclass(frozen=True)
class Components:
    """Standardised principal components of the states at P places.

    Attributes
    ----------
    places : list of Place
    centre : list of P float32 ndarrays of shape (D,)
        Mean states of the training rows.
    projection : list of P float32 ndarrays of shape (D, d)
        From centred states to components; the scaler is folded in.
    """

    places: list[Place]
    centre: list[np.ndarray]
    projection: list[np.ndarray]

    def read(
        self, activations: Activations | Mapping[str, Activations], rows: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the states (n, D) at each place, of all queries or of `rows`.

        Raises
        ------
        InputError
            If an encoder, a layer or a pooling is not there.
        """
        for place in self.places:
            states = states_at(activations, place)
            yield states if rows is None else states[rows]

    def features(self, states: Iterable[np.ndarray]) -> np.ndarray:
        """Return the components of all places side by side, float32 of shape (N, sum of d).

        Parameters
        ----------
        states : iterable of P float32 ndarrays of shape (N, D)
            In the order of `places`.
        """
        parts = zip(states, self.centre, self.projection, strict=True)
        return np.hstack(
            [blockwise(lambda h, c=c, w=w: np.matmul(h - c, w), held) for held, c, w in parts]
        )

    def columns(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """Return where each target's features f_k stand among the components."""
        ends = np.cumsum([projection.shape[1] for projection in self.projection])
        columns = dict(zip(self.places, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
        return [columns[choice.place][: choice.dimension] for choice in choices]


def fit_components(
    choices: Sequence[Choice],
    activations: Activations | Mapping[str, Activations],
    rows: np.ndarray,
) -> Components:
    """Fit scalers and principal components on the training rows alone.

    Parameters
    ----------
    choices : sequence of Choice
        Those that read the same states share one decomposition, of the largest dimension.
    activations : Activations, or mapping of str to Activations
        Of one encoder, or by the encoder's name.
    rows : ndarray of int
        Training rows.

    Returns
    -------
    Components

    Raises
    ------
    InputError
        If a choice names an encoder, layer or pooling that is not there.
    """
    largest: dict[Place, int] = {}
    for choice in choices:
        largest[choice.place] = max(choice.dimension, largest.get(choice.place, 0))
    centre, projection = [], []
    for place, dimension in track(largest.items(), "Reducing states", len(largest)):
        fitted = decompose(states_at(activations, place)[rows], dimension)
        centre.append(fitted.mean.astype(np.float32))
        projection.append((fitted.components / fitted.scale[:, None]).astype(np.float32))
    return Components(list(largest), centre, projection)


class TargetFeatures:
    """Standardised, PCA-reduced features f_k for each target [T].

    Parameters
    ----------
    choices : sequence of Choice
        One per target. Targets that read the same states share one decomposition.

    Attributes
    ----------
    components_ : Components
    """

    def __init__(self, choices: Sequence[Choice]):
        self.choices = choices

    def fit(
        self, activations: Activations | Mapping[str, Activations], rows: np.ndarray
    ) -> TargetFeatures:
        """Fit scalers and principal components on the training rows alone; see `fit_components`."""
        self.components_ = fit_components(self.choices, activations, rows)
        return self

    def transform(
        self, activations: Activations | Mapping[str, Activations], rows: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return the features f_k, each (n, d_k) in float32, of all queries or of `rows`.

        ``np.hstack`` of them is x = [f_1 | ... | f_K], what the shared trunk reads.

        Raises
        ------
        InputError
            If a choice names an encoder, layer or pooling that is not there.
        """
        features = self.components_.features(self.components_.read(activations, rows))
        return [features[:, columns] for columns in self.components_.columns(self.choices)]


def blockwise(function: Callable[[np.ndarray], np.ndarray], X: np.ndarray) -> np.ndarray:
    """Apply a function to blocks of `BLOCK` rows of `X`, and join the results.

    Matrix products of different shapes round differently. In blocks of one shape, the last one
    filled with zeros, a query's numbers do not depend on how many others come with it. One row
    alone is not filled, so that routing one query stays fast.
    """
    if len(X) == 1:
        return function(X)
    results = []
    for start in range(0, max(len(X), 1), BLOCK):
        block = X[start : start + BLOCK]
        filled = np.zeros((BLOCK, *X.shape[1:]), X.dtype)
        filled[: len(block)] = block
        results.append(function(filled)[: len(block)])
    return np.concatenate(results)


def states_at(activations: Activations | Mapping[str, Activations], place: Place) -> np.ndarray:
    """Return the states (N, D) at a place.

    Raises
    ------
    InputError
        If there is no such encoder, layer or pooling.
    """
    encoder, layer, pooling = place
    by_encoder = activations if isinstance(activations, Mapping) else {encoder: activations}
    if encoder not in by_encoder:
        hint = did_you_mean(encoder, by_encoder)
        raise InputError(f"No activations of encoder {encoder!r}.{hint}")
    held = by_encoder[encoder]
    known = {"layer": (layer, held.layers), "pooling": (pooling, held.poolings)}
    for what, (value, there) in known.items():
        if value not in there:
            raise InputError(f"Encoder {encoder!r} has no {what} {value!r}; it has {list(there)}.")
    return held.states(layer, pooling)
