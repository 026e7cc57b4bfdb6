"""Does a layer chosen on training rows hold what it promised on rows that no choice has seen?

Held-out rows are the study's validation rows: probes, cross-validation and heads know training rows
only. Test rows are not looked at. Intervals resample groups of held-out queries; what is compared
is compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from prefill_router.bootstrap import Interval, auc_intervals
from prefill_router.decomposition import decompose
from prefill_router.estimates import Estimate, rows_of
from prefill_router.features import TargetFeatures
from prefill_router.logistic import fit_logistic, predict_logistic
from prefill_router.progress import track
from prefill_router.study import Study

PROBES = ("J", "J_pca", "J_white", "d_eff", "anisotropy")
RESAMPLES = 500


@dataclass(frozen=True)
class HeldOut:
    """Predictions of heads on held-out rows, one column a head.

    Attributes
    ----------
    heads : pandas.DataFrame
        M rows: ``fold``, ``layer``, ``pooling``, ``target``, ``auc`` (cross-validated on training
        rows) and the training rows' probes. Constant states have no head.
    scores : ndarray of shape (n, M)
    correct : ndarray of shape (n, M)
        The target's labels; NaN where never asked, and on rows of other folds.
    groups : ndarray of shape (n,)
    """

    heads: pd.DataFrame
    scores: np.ndarray
    correct: np.ndarray
    groups: np.ndarray


def held_out(study: Study, encoder: str) -> HeldOut:
    """Fit a logistic head for every layer, pooling and target, and predict the held-out rows.

    Each head reads as many principal components as cross-validation on training rows prefers.
    """
    place = ["fold", "layer", "pooling", "target"]
    best = study.layer_auc(encoder).sort_values(["auc", "dimension"], ascending=[False, True])
    best = best.drop_duplicates(place).drop(columns=["constant", "encoder"])
    heads = study.probes(encoder).query("not constant").merge(best, on=place)
    heads = heads.sort_values(place, ignore_index=True)
    activations, Y = study.activations(encoder), study.labels.correct
    held = [split.validation for split in study.splits]
    ends = np.cumsum([0, *map(len, held)])
    scores, correct = np.full((2, ends[-1], len(heads)), np.nan)
    places = heads.groupby(["fold", "layer", "pooling"])
    for (fold, layer, pooling), here in track(places, "Predicting held-out rows", len(places)):
        train, rows = study.splits[fold].train, slice(ends[fold], ends[fold + 1])
        states = activations.states(layer, pooling)
        reduction = decompose(states[train], here["dimension"].max())
        inner, outer = (reduction.transform(states[part]) for part in (train, held[fold]))
        for dimension, same in here.groupby("dimension"):
            targets = same["target"].to_numpy()
            model = fit_logistic(inner[:, :dimension], Y[np.ix_(train, targets)])
            scores[rows, same.index] = predict_logistic(outer[:, :dimension], *model)
            correct[rows, same.index] = Y[np.ix_(held[fold], targets)]
    return HeldOut(heads, scores, correct, study.labels.group[np.concatenate(held)])


def held_out_ranking(study: Study, encoder: str) -> list[Estimate]:
    """Say how a probe of training rows ranks layers by AUC on held-out rows, and what it loses.

    Returns
    -------
    list of Estimate
        "Spearman of P" for each probe P, target and pooling, and over both poolings ("all": is the
        probe comparable between them?); and "AUC lost by choosing with P" against choosing by
        cross-validated AUC, which a lucky choice makes negative. Means over folds; `router` names
        encoder and poolings, `target` is empty for the mean over targets.
    """
    found = held_out(study, encoder)
    heads, targets = found.heads, study.labels.targets
    asked, names = [], []
    poolings = [*heads["pooling"].unique(), "all"]
    for k in [*range(len(targets)), None]:
        mine = heads if k is None else heads[heads["target"] == k]
        target = "" if k is None else targets[k]
        for probe in PROBES:
            for pooling in poolings:
                of = mine if pooling == "all" else mine[mine["pooling"] == pooling]
                asked.append(_mean([_spearman(of, probe) for of in _profiles(of)]))
                names.append((f"Spearman of {probe}", f"{encoder}, {pooling}", target))
            asked.append(_mean([_loss(of, probe) for of in _profiles(mine)]))
            names.append((f"AUC lost by choosing with {probe}", encoder, target))
    n = len(found.groups)
    return [
        row
        for (metric, router, target), x in zip(names, _bootstrap(study, found, asked), strict=True)
        for row in rows_of(metric, [(router, target)], [x], "validation", n)
    ]


def _profiles(heads: pd.DataFrame) -> list[pd.DataFrame]:
    """Heads that a search would choose among: those of one fold and target with an AUC."""
    return [rows for _, rows in heads.dropna(subset="auc").groupby(["fold", "target"])]


Statistic = Callable[[np.ndarray], np.ndarray]


def _spearman(heads: pd.DataFrame, probe: str) -> Statistic:
    """Rank correlation of a probe with the AUCs (B, M) of its heads."""
    columns, ranks = heads.index.to_numpy(), rankdata(heads[probe])
    ranks = ranks - ranks.mean()

    def statistic(areas: np.ndarray) -> np.ndarray:
        theirs = rankdata(areas[:, columns], axis=1, nan_policy="propagate")
        theirs = theirs - theirs.mean(axis=1, keepdims=True)
        sizes = np.sqrt(np.sum(theirs**2, axis=1) * np.sum(ranks**2))
        undefined = np.full(len(areas), np.nan)
        return np.divide(theirs @ ranks, sizes, out=undefined, where=sizes > 0)

    return statistic


def _loss(heads: pd.DataFrame, probe: str) -> Statistic:
    """AUC of the head that cross-validation chooses minus that of the head the probe chooses."""
    by_auc, by_probe = heads["auc"].idxmax(), heads[probe].idxmax()
    return lambda areas: areas[:, by_auc] - areas[:, by_probe]


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    def statistic(areas: np.ndarray) -> np.ndarray:
        if not statistics:
            return np.full(len(areas), np.nan)
        return np.mean([each(areas) for each in statistics], axis=0)

    return statistic


def _bootstrap(study: Study, found: HeldOut, asked: Sequence[Statistic]) -> list[Interval]:
    """Resample held-out queries; every statistic sees the same resamples."""
    return auc_intervals(
        found.scores,
        found.correct,
        found.groups,
        lambda areas: np.column_stack([statistic(areas) for statistic in asked]),
        min(RESAMPLES, study.parameters.n_resamples),
        study.parameters.seed,
    )


def all_layers_against_one(study: Study, encoder: str, dimension: int = 64) -> list[Estimate]:
    """Say what all layers side by side predict better than the one layer chosen for each target.

    Parameters
    ----------
    study : Study
    encoder : str
    dimension : int, default 64
        Principal components kept of each layer and pooling.

    Returns
    -------
    list of Estimate
        "AUC, all layers", "AUC, chosen layer" and "AUC, all layers minus chosen" on held-out rows,
        for each target and (`target` empty) their mean. Heads are logistic regressions.
    """
    activations, Y = study.activations(encoder), study.labels.correct
    places = [(layer, pool) for layer in activations.layers for pool in activations.poolings]
    n_targets, held = Y.shape[1], [split.validation for split in study.splits]
    ends = np.cumsum([0, *map(len, held)])
    scores, correct = np.full((2, ends[-1], len(held), 2, n_targets), np.nan)
    for fold, split in enumerate(study.splits):
        rows = slice(ends[fold], ends[fold + 1])
        correct[rows, fold] = Y[split.validation][:, None]
        parts = []
        for layer, pooling in track(places, "Reducing layers"):
            states = activations.states(layer, pooling)
            reduction = decompose(states[split.train], dimension)
            sides = (split.train, split.validation)
            parts.append([reduction.transform(states[side]) for side in sides])
        inner, outer = (np.hstack(side) for side in zip(*parts, strict=True))
        scores[rows, fold, 0] = predict_logistic(outer, *fit_logistic(inner, Y[split.train]))
        chosen = TargetFeatures(study.choices([encoder], fold))
        chosen.fit({encoder: activations}, split.train)
        inner, outer = (
            chosen.transform({encoder: activations}, side)
            for side in (split.train, split.validation)
        )
        for k in range(n_targets):
            model = fit_logistic(inner[k], Y[split.train, k : k + 1])
            scores[rows, fold, 1, k] = predict_logistic(outer[k], *model)[:, 0]

    def statistic(areas: np.ndarray) -> np.ndarray:
        every, one = areas.reshape(len(areas), len(held), 2, n_targets).mean(axis=1).swapaxes(0, 1)
        three = [every, one, every - one]
        scored = ~np.isnan(every[0])  # a target that is always right has no AUC
        means = [np.mean(x[:, scored], axis=1, keepdims=True) for x in three]
        return np.hstack([np.hstack(pair) for pair in zip(three, means, strict=True)])

    names = [(encoder, target) for target in [*study.labels.targets, ""]]
    found = auc_intervals(
        scores.reshape(len(scores), -1),
        correct.reshape(len(scores), -1),
        study.labels.group[np.concatenate(held)],
        statistic,
        min(RESAMPLES, study.parameters.n_resamples),
        study.parameters.seed,
    )
    metrics = ("AUC, all layers", "AUC, chosen layer", "AUC, all layers minus chosen")
    return [
        row
        for i, metric in enumerate(metrics)
        for row in rows_of(
            metric, names, found[i * len(names) : (i + 1) * len(names)], "validation", len(scores)
        )
    ]
