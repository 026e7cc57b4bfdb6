"""The recipe: labels, activations and a split -> features, head, calibration -> P(correct).

The book's studies and `prefill_router.router.Router.fit` call it, so that what is evaluated is what
is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from prefill_router.errors import InputError, check_known
from prefill_router.extraction.activations import Activations
from prefill_router.features import blockwise, fit_components
from prefill_router.features.selection import (
    Choice,
    choose,
    cross_validated_auc,
)
from prefill_router.labels import Labels
from prefill_router.labels.splits import Split
from prefill_router.probes import probe_layers
from prefill_router.recipe.calibration import cross_fit, fit_calibration
from prefill_router.recipe.heads import COLUMNS, HEADS, HeadData, Predictor, score

if TYPE_CHECKING:
    from prefill_router.extraction.models import Device

AUTO = "auto"


@dataclass(frozen=True)
class Recipe:
    """How a router is made.

    Attributes
    ----------
    head : {"trunk", "logistic", "ridge", "auto"}
        ``"trunk"``: SharedTrunkNets on each target's layer, as published. ``"logistic"``: one
        regression per target on the same features. ``"ridge"``: easiness and deviations on all
        layers. ``"auto"``: the one with the least pairwise Brier score on validation rows.
    criterion : {"auc", "J"}
        What chooses a target's layer and pooling; the dimension is always chosen by AUC.
    dimensions : sequence of int
        Numbers of principal components tried.
    n_folds : int
        Folds, within training rows, that choose layers.
    n_seeds, keep : int
        SharedTrunkNets trained, and kept.
    seed : int
    device : device
        What trains networks; see `prefill_router.extraction.models.training_device`.
    """

    head: str = "trunk"
    criterion: str = "auc"
    dimensions: Sequence[int] = (16, 32, 64, 128)
    n_folds: int = 5
    n_seeds: int = 10
    keep: int = 5
    seed: int = 0
    device: Device = "cpu"

    def __post_init__(self):
        check_known("head", self.head, [*HEADS, AUTO])
        check_known("criterion", self.criterion, ["auc", "J"])


@dataclass(frozen=True)
class Fitted:
    """What a recipe made.

    Attributes
    ----------
    recipe : Recipe
    predictor : Predictor
        From states to P(correct).
    features : ndarray of shape (N, D)
        Components that it reads of all queries; costs are predicted from them, too.
    held : ndarray of shape (V, K)
        P(correct) of the split's validation rows, each calibrated without its own labels: what
        thresholds are chosen on.
    choices : list of Choice
        Each target's place and dimension, or every place where the head reads all layers.
    model : estimator
        The head as it was fitted, such as a `SharedTrunkEnsemble` with its histories.
    scores : dict of str to float
        Pairwise Brier score, before calibration, on validation rows of each head fitted.
    """

    recipe: Recipe
    predictor: Predictor
    features: np.ndarray
    held: np.ndarray
    choices: list[Choice]
    model: Any
    scores: dict[str, float]


def fit_recipe(
    recipe: Recipe,
    labels: Labels,
    activations: Activations | Mapping[str, Activations],
    split: Split,
    choices: Sequence[Choice] | None = None,
) -> Fitted:
    """Fit features, head and calibration.

    Layers, features and networks are fitted on the split's training rows; settings of heads are
    chosen and probabilities calibrated on its validation rows. Test rows are not looked at.

    Parameters
    ----------
    recipe : Recipe
    labels : Labels
        Of N queries and K targets. Queries of one group are on the same side of every inner fold.
    activations : Activations, or mapping of str to Activations
        Of one encoder, or by the encoder's name.
    split : Split
    choices : sequence of Choice, optional
        Places and dimensions of each target, where they are chosen already.

    Returns
    -------
    Fitted

    Raises
    ------
    InputError
        If the recipe, labels or activations cannot be used.
    """
    by_encoder, fitted, scores = _by_encoder(activations), {}, {}
    held, Y, groups = split.validation, labels.correct, labels.group
    for states in by_encoder.values():
        check_same_queries(states, len(Y))
    for name in list(HEADS) if recipe.head == AUTO else [recipe.head]:
        head = HEADS[name]
        if not head.all_layers and choices is None:
            choices = choose_places(recipe, by_encoder, Y, groups, split.train)
        places = all_places(activations) if head.all_layers else list(choices)
        components = fit_components(places, activations, split.train)
        features = components.features(components.read(activations))
        columns = np.concatenate(components.columns(places))
        model, tensors = head.fit(HeadData(features, columns, Y, groups, split, recipe))
        raw = blockwise(partial(head.predict, tensors), features[held])
        known = raw, Y[held], groups[held]
        calibration = fit_calibration(*known, seed=recipe.seed)
        p = cross_fit(calibration.families, *known, recipe.seed)
        predictor = Predictor(
            **vars(components), head=name, tensors=tensors, calibration=calibration
        )
        scores[name] = score(raw, Y[held])
        fitted[name] = Fitted(recipe, predictor, features, p, places, model, scores)
    return fitted[min(scores, key=scores.get)]


def check_same_queries(states: Activations, n: int) -> None:
    """Raise InputError if these are no states, or not of as many queries as labels, `n`."""
    if not isinstance(states, Activations):
        raise InputError(
            f"The states must be Activations, not {type(states).__name__}; of an array X, give "
            'Activations.from_arrays({(0, "mean"): X}).'
        )
    if len(states) != n:
        raise InputError(
            f"The states of {len(states):,} queries and labels of {n:,} must be of the same ones, "
            "in the same order."
        )


def choose_places(
    recipe: Recipe,
    activations: Mapping[str, Activations],
    Y: np.ndarray,
    groups: np.ndarray,
    rows: np.ndarray,
) -> list[Choice]:
    """Choose each target's encoder, layer, pooling and dimension on training `rows`.

    By cross-validated AUC; where the criterion is J, the place by J and then the dimension by AUC.
    """
    aucs, probes = [], []
    for encoder, states in activations.items():
        table = cross_validated_auc(
            states, Y, rows, groups, states.layers, states.poolings,
            recipe.dimensions, recipe.n_folds, recipe.seed,
        )  # fmt: skip
        aucs.append(table.assign(encoder=encoder))
        if recipe.criterion == "J":
            probes.append(probe_layers(states, Y, rows).assign(encoder=encoder))
    return choose(pd.concat(aucs), pd.concat(probes) if probes else None)


def all_places(activations: Activations | Mapping[str, Activations]) -> list[Choice]:
    """Return every layer and pooling of every encoder; they share `COLUMNS` evenly."""
    places = [
        (name, layer, pooling)
        for name, held in _by_encoder(activations).items()
        for layer in held.layers
        for pooling in held.poolings
    ]
    return [Choice(*place, max(1, COLUMNS // len(places))) for place in places]


def _by_encoder(activations: Activations | Mapping[str, Activations]) -> Mapping[str, Activations]:
    return activations if isinstance(activations, Mapping) else {"": activations}
