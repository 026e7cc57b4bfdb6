"""Layer, pooling and PCA dimension of each target, chosen by cross-validated AUC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from prefill_router.errors import InputError, did_you_mean
from prefill_router.features.logistic import fit_logistic, predict_logistic
from prefill_router.labels import label_matrix
from prefill_router.metrics import auc, macro
from prefill_router.probes import each_layer
from prefill_router.probes.decomposition import Decomposition, decompose_folds, is_constant

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations


def cross_validated_auc(
    activations: Activations,
    Y: np.ndarray,
    rows: np.ndarray,
    groups: np.ndarray,
    layers: Sequence[int],
    poolings: Sequence[str],
    dimensions: Sequence[int],
    n_folds: int = 5,
    seed: int = 0,
    C: float = 1.0,
) -> pd.DataFrame:
    """Cross-validate a logistic regression on every layer, pooling and dimension for each target.

    Scaler, principal components and regression are fitted inside each fold's training part [T];
    no group of queries is on both sides of a fold.

    Parameters
    ----------
    activations : Activations
        Pooled states of N queries.
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    rows : ndarray of int
        The training rows, the only ones looked at.
    groups : ndarray of shape (N,)
        Queries that share a value stay together.
    layers, poolings, dimensions : sequences
        What to try. A dimension above the encoder's width is tried as the width, once.
    n_folds : int, default 5
    seed : int, default 0
        Deals the groups into folds.
    C : float, default 1.0
        Inverse strength of the regression's penalty.

    Returns
    -------
    pandas.DataFrame
        One row for each layer, pooling, dimension and target (a column of `Y`), with ``auc`` (the
        mean over folds with both right and wrong answers; NaN if there is none) and ``constant``,
        which is true where all states of the training rows are the same.

    Raises
    ------
    InputError
        If `Y` is not a matrix of as many rows as there are states, `n_folds` is below 2 or above
        the number of groups, there is no dimension or one is below 1, `C` is not positive, or a
        layer or pooling is not among the activations.
    """
    rows = np.asarray(rows)
    Y, groups = label_matrix(Y, activations)[rows], np.asarray(groups)[rows]
    n_groups = len(np.unique(groups))
    if n_groups < n_folds or n_folds < 2:
        raise InputError(f"n_folds is {n_folds}; it must be from 2 to the {n_groups} groups given.")
    numbers = np.asarray(dimensions)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not (numbers > 0).all():
        raise InputError(f"dimensions is {dimensions!r}; give at least one, each 1 or more.")
    kept = sorted({min(int(dimension), activations.width) for dimension in dimensions})
    folds = list(GroupKFold(n_folds, shuffle=True, random_state=seed).split(Y, groups=groups))

    def fold_aucs(states: np.ndarray, reduction: Decomposition, fold: tuple) -> list[np.ndarray]:
        """AUC on a fold's test part by dimension; one decomposition serves them all."""
        train, test = fold
        features = reduction.transform(states)
        models = ((d, fit_logistic(features[train, :d], Y[train], C)) for d in kept)
        return [auc(predict_logistic(features[test, :d], *model), Y[test]) for d, model in models]

    def measure(layer: int, pooling: str) -> pd.DataFrame:
        states = activations.states(layer, pooling)[rows]
        reductions = decompose_folds(states, [test for _, test in folds], kept[-1])
        aucs = np.array([fold_aucs(states, *each) for each in zip(reductions, folds, strict=True)])
        columns = {
            "layer": layer,
            "pooling": pooling,
            "dimension": np.repeat(kept, Y.shape[1]),
            "target": np.tile(np.arange(Y.shape[1]), len(kept)),
            "auc": macro(np.moveaxis(aucs, 0, -1)).ravel(),
            "constant": is_constant(states),
        }
        return pd.DataFrame(columns)

    tables = each_layer(measure, layers, poolings, "Cross-validating layers")
    return pd.concat(tables, ignore_index=True)


Place = tuple[str, int, str]
"""An encoder, a layer and a pooling; the encoder is ``""`` where there is only one."""


@dataclass(frozen=True)
class Choice:
    """Where one target's features come from."""

    encoder: str
    layer: int
    pooling: str
    dimension: int

    @property
    def place(self) -> Place:
        """Encoder, layer and pooling."""
        return self.encoder, self.layer, self.pooling


PLACE = ["encoder", "layer", "pooling"]


def choose(aucs: pd.DataFrame, probes: pd.DataFrame | None = None) -> list[Choice]:
    """Choose each target's encoder, layer, pooling and dimension by AUC.

    With `probes`, the place is the one of the highest J, and only the dimension is chosen by AUC.

    Parameters
    ----------
    aucs : pandas.DataFrame
        That of `cross_validated_auc`, or tables of several encoders in one, with a column
        ``encoder`` (else choices name the encoder ``""``).
    probes : pandas.DataFrame, optional
        That of `prefill_router.probes.probe_layers` on the same places, likewise.

    Returns
    -------
    list of Choice
        One a target, in the order of their first rows. NaN and constant states are never chosen;
        ties go to the lowest layer, then pooling by name, then the smallest dimension. A target
        without any score gets the place whose mean over the other targets is best.

    Raises
    ------
    InputError
        If a column is missing or every state is constant.
    """
    if "encoder" not in aucs:
        aucs, probes = (t if t is None else t.assign(encoder="") for t in (aucs, probes))
    if probes is None:
        return _highest(aucs, "auc")
    merged = aucs.merge(probes[[*PLACE, "target", "J"]], on=[*PLACE, "target"])
    by_J = zip(merged["target"].unique(), _highest(merged, "J"), strict=True)
    at = merged.groupby(["target", *PLACE])
    return [_highest(at.get_group((target, *choice.place)), "auc")[0] for target, choice in by_J]


def _highest(table: pd.DataFrame, criterion: str) -> list[Choice]:
    """Choose by one column of a table, as `choose` says."""
    place = ["layer", "pooling", "dimension", "encoder"]
    for column in [*place, "target", criterion]:
        if column not in table:
            raise InputError(f"The table has no column {column!r}.{did_you_mean(column, table)}")
    targets = table["target"].unique()
    if "constant" in table:
        table = table[~table["constant"].astype(bool)]
    if table.empty:
        raise InputError("Every state is constant, so there is nothing to choose from.")

    def best(scores: pd.DataFrame) -> Choice:
        order = scores.sort_values([criterion, *place], ascending=[False] + [True] * 4)
        row = order.iloc[0]  # NaN is last
        return Choice(row["encoder"], int(row["layer"]), row["pooling"], int(row["dimension"]))

    means = table.groupby(place, as_index=False)[criterion].mean()
    scored = dict(list(table.dropna(subset=criterion).groupby("target")))
    return [best(scored.get(target, means)) for target in targets]
