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

from prefill_router.evaluation.bootstrap import Interval, auc_intervals
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import macro, ratio
from prefill_router.experiments.study import Study
from prefill_router.features.logistic import fit_logistic, predict_logistic
from prefill_router.probes.decomposition import decompose
from prefill_router.progress import track

PROBES = {name: name for name in ("J", "J_pca", "J_white", "d_eff", "anisotropy")}
PROBES["cross-validated AUC"] = "auc"
"""Names of what may rank layers, and the columns of `HeldOut.heads` that hold them."""
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
        Means over folds; `target` is empty for the mean over targets; `router` names the encoder
        and, after a comma, poolings or a layer:

        - "AUC, held out" of each layer and pooling;
        - "Spearman of P" for each of `PROBES`, target and pooling, and over both poolings ("all").
          That of cross-validated AUC is as much as the noise of the held-out AUC allows;
        - "pairs across poolings ordered by P": the share of pairs of states of different poolings
          of which the probe prefers the one with the higher AUC. One half is chance; a probe that
          is comparable between poolings comes near 1;
        - "AUC lost by choosing with P" against choosing by cross-validated AUC, which a lucky
          choice makes negative. Of anisotropy the least is chosen;
        - "... by J_white minus J": both on the same resamples;
        - "depth of the deepest dip": where the cross-validated profile (mean over targets) has its
          deepest valley between two peaks, how deep that is on held-out rows; above 0 the profile
          has two peaks. With one split it is chosen on other rows, and not biased by the choice.
          A minimum lies low, the more so on resamples: below 0 it does not show that there is one.
    """
    found = held_out(study, encoder)
    heads, targets = found.heads, study.labels.targets
    asked: dict[tuple[str, str, str], Statistic] = {}
    poolings = [*heads["pooling"].unique(), "all"]
    for (pooling, layer), here in heads.groupby(["pooling", "layer"]):
        at = f"{encoder}, layer {layer}, {pooling}"
        asked["AUC, held out", at, ""] = _area(here.dropna(subset="auc"))
    for k, target in [*enumerate(targets), (None, "")]:
        mine = heads if k is None else heads[heads["target"] == k]
        profiles = {pooling: _profiles(mine, pooling) for pooling in poolings}
        for probe, column in PROBES.items():
            for pooling, of in profiles.items():
                name = (f"Spearman of {probe}", f"{encoder}, {pooling}", target)
                asked[name] = _mean([_spearman(one, column) for one in of])
            pairs = _mean([_ordered(one, column) for one in profiles["all"]])
            asked[f"pairs across poolings ordered by {probe}", encoder, target] = pairs
            if column != "auc":
                lost = _mean([_loss(one, column) for one in profiles["all"]])
                asked[f"AUC lost by choosing with {probe}", encoder, target] = lost
    for what in ("Spearman of", "pairs across poolings ordered by"):
        router = f"{encoder}, all" if what == "Spearman of" else encoder
        white, plain = (asked[f"{what} {probe}", router, ""] for probe in ("J_white", "J"))
        asked[f"{what} J_white minus J", router, ""] = _difference(white, plain)
    for pooling, of in heads.dropna(subset="auc").groupby("pooling"):
        asked["depth of the deepest dip", f"{encoder}, {pooling}", ""] = _dip(of)
    n = len(found.groups)
    return [
        row
        for (metric, router, target), x in zip(
            asked, _bootstrap(study, found, list(asked.values())), strict=True
        )
        for row in rows_of(metric, [(router, target)], [x], "validation", n)
    ]


def deepest_dip(profile: np.ndarray) -> tuple[int, int, int] | None:
    """Return where a profile has its deepest valley, with the peaks on its left and right.

    Parameters
    ----------
    profile : ndarray of shape (L,)

    Returns
    -------
    (left, valley, right) or None
        Of all places between two others the one furthest below the lower of the highest places on
        either side; if it is above that, the profile has one peak. None for fewer than 3 places.
    """
    if len(profile) < 3:
        return None
    valleys = range(1, len(profile) - 1)
    sides = [(int(np.argmax(profile[:j])), j, j + 1 + int(np.argmax(profile[j + 1 :])))
             for j in valleys]  # fmt: skip
    return max(sides, key=lambda at: min(profile[at[0]], profile[at[2]]) - profile[at[1]])


def _profiles(heads: pd.DataFrame, pooling: str) -> list[pd.DataFrame]:
    """Heads that a search would choose among: those of one fold and target with an AUC."""
    heads = heads if pooling == "all" else heads[heads["pooling"] == pooling]
    return [rows for _, rows in heads.dropna(subset="auc").groupby(["fold", "target"])]


Statistic = Callable[[np.ndarray], np.ndarray]


def _area(heads: pd.DataFrame) -> Statistic:
    """Mean AUC of heads."""
    return _mean([lambda areas, at=at: areas[:, at] for at in heads.index])


def _spearman(heads: pd.DataFrame, probe: str) -> Statistic:
    """Rank correlation of a probe with the AUCs (B, M) of its heads."""
    columns, ranks = heads.index.to_numpy(), rankdata(heads[probe])
    ranks = ranks - ranks.mean()

    def statistic(areas: np.ndarray) -> np.ndarray:
        theirs = rankdata(areas[:, columns], axis=1, nan_policy="propagate")
        theirs = theirs - theirs.mean(axis=1, keepdims=True)
        sizes = np.sqrt(np.sum(theirs**2, axis=1) * np.sum(ranks**2))
        return ratio(theirs @ ranks, sizes)

    return statistic


def _ordered(heads: pd.DataFrame, probe: str) -> Statistic:
    """Share of the pairs of different poolings that a probe orders as AUC does; ties count half."""
    pooling, value, at = (heads.reset_index()[c].to_numpy() for c in ("pooling", probe, "index"))
    one, other = np.nonzero(np.triu(pooling[:, None] != pooling))
    sign = np.sign(value[one] - value[other])

    def statistic(areas: np.ndarray) -> np.ndarray:
        if len(sign) == 0:
            return np.full(len(areas), np.nan)
        agree = sign * np.sign(areas[:, at[one]] - areas[:, at[other]])
        return np.mean((1 + agree) / 2, axis=1)

    return statistic


def _loss(heads: pd.DataFrame, probe: str) -> Statistic:
    """AUC of the head that cross-validation chooses minus that of the head the probe chooses."""
    values = -heads[probe] if probe == "anisotropy" else heads[probe]
    if values.isna().all():
        return lambda areas: np.full(len(areas), np.nan)
    by_auc, by_probe = heads["auc"].idxmax(), values.idxmax()
    return lambda areas: areas[:, by_auc] - areas[:, by_probe]


def _dip(heads: pd.DataFrame) -> Statistic:
    """Depth of the valley that training rows show between two peaks, in AUC of held-out rows."""
    layers = [rows for _, rows in heads.groupby("layer")]
    at = deepest_dip(np.array([rows["auc"].mean() for rows in layers]))
    if at is None:
        return lambda areas: np.full(len(areas), np.nan)
    left, valley, right = (_area(layers[place]) for place in at)
    return lambda areas: np.minimum(left(areas), right(areas)) - valley(areas)


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda areas: one(areas) - other(areas)


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    """Mean of the statistics that are defined."""

    def statistic(areas: np.ndarray) -> np.ndarray:
        return macro(np.array([each(areas) for each in statistics]).reshape(-1, len(areas)).T)

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
