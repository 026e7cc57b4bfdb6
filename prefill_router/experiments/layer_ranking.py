"""Does a probe rank a study's layers as cross-validated AUC does; what does trusting it cost?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from prefill_router.evaluation.bootstrap import Interval, intervals
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.experiments.study import Study


def rank_correlations(study: Study, encoder: str) -> list[Estimate]:
    """Say whether a probe ranks an encoder's layers as cross-validated AUC does.

    Spearman's rank correlation over layers (constant states left out), for each target, pooling
    and fold, and its mean; the interval resamples targets.

    Returns
    -------
    list of Estimate
        Metrics "Spearman of J", "Spearman of J_pca", "Spearman of d_eff" and
        "Spearman of anisotropy" with AUC; `router` names encoder and pooling.
    """
    place = ["fold", "pooling", "layer", "target"]
    auc = study.layer_auc(encoder).groupby(place, as_index=False)["auc"].max()
    both = study.probes(encoder).merge(auc, on=place).query("not constant")
    result = []
    for pooling, rows in both.groupby("pooling"):
        for probe in ("J", "J_pca", "d_eff", "anisotropy"):
            by_fold = rows.groupby(["target", "fold"])[[probe, "auc"]].corr("spearman")
            by_target = by_fold.xs(probe, level=2)["auc"].groupby("target").mean().to_numpy()
            by_target = by_target[~np.isnan(by_target), None]  # constant targets have no AUC
            found = [Interval(np.nan, np.nan, np.nan)]  # one layer has no rank
            if len(by_target):
                found = intervals(by_target, None, None, 2000, study.parameters.seed)
            name = [(f"{encoder}, {pooling}", "")]
            result += rows_of(f"Spearman of {probe}", name, found, "train", rows.layer.nunique())
    return result


def probe_profiles(study: Study, encoder: str) -> list[Estimate]:
    """Return the probes of training rows by layer and pooling, constant states left out.

    Returns
    -------
    list of Estimate
        "J", "J_pca", "J_white", "d_eff", "anisotropy" and "AUC, cross-validated" (that of the best
        dimension), means over targets and folds, without intervals; `router` names encoder, layer
        and pooling, and `n` counts training rows.
    """
    place = ["fold", "pooling", "layer", "target"]
    auc = study.layer_auc(encoder).groupby(place, as_index=False)["auc"].max()
    both = study.probes(encoder).query("not constant").merge(auc, on=place)
    both = both.rename(columns={"auc": "AUC, cross-validated"})
    metrics = ["J", "J_pca", "J_white", "d_eff", "anisotropy", "AUC, cross-validated"]
    means = both.groupby(["pooling", "layer"])[metrics].mean()
    names = [(f"{encoder}, layer {layer}, {pooling}", "") for pooling, layer in means.index]
    n = sum(len(split.train) for split in study.splits) // len(study.splits)
    return [
        row
        for metric in metrics
        for row in rows_of(
            metric, names, [Interval(x, np.nan, np.nan) for x in means[metric]], "train", n
        )
    ]


def n_peaks(values: Sequence[float]) -> int:
    """Count the local maxima of a profile, its ends included; a plateau is one."""
    kept = [v for i, v in enumerate(values) if i == 0 or v != values[i - 1]]
    padded = [-np.inf, *kept, -np.inf]
    return sum(a < b > c for a, b, c in zip(padded, padded[1:], padded[2:], strict=False))


def auc_lost(study: Study, encoder: str) -> list[Estimate]:
    """Say how much cross-validated AUC is lost by letting J choose layer and pooling.

    Returns
    -------
    list of Estimate
        One a target, over folds; without an interval, and NaN for a constant target.
    """
    place = ["fold", "target", "pooling", "layer"]
    auc = study.layer_auc(encoder).groupby(place, as_index=False)["auc"].max()
    both = study.probes(encoder).merge(auc, on=place).query("not constant")
    result = []
    for k, target in enumerate(study.labels.targets):
        rows = both[both["target"] == k].dropna(subset=["J", "auc"])
        lost = [f["auc"].max() - f.loc[f["J"].idxmax(), "auc"] for _, f in rows.groupby("fold")]
        row = Interval(float(np.mean(lost)) if lost else np.nan, np.nan, np.nan)
        name = [(encoder, target)]
        result += rows_of("AUC lost by choosing with J", name, [row], "train", len(rows))
    return result


def ternary_search(score: Callable[[int], float], first: int, last: int) -> int:
    """Find the peak of a function that has only one, as the toolkit searches layers [T].

    Parameters
    ----------
    score : callable
        What is to be maximised, of an int; asked once for each value.
    first, last : int
        Where to search, both ends included.

    Returns
    -------
    int
        The peak, if scores rise up to it and fall after it; else any place.
    """
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = score(place)
        return known[place]

    while last - first > 2:
        third = (last - first) // 3
        left, right = first + third, last - third
        if at(left) < at(right):
            first = left + 1
        else:
            last = right - 1
    return max(range(first, last + 1), key=at)


def search_misses(study: Study, encoder: str) -> list[Estimate]:
    """Say whether AUC over layers has one peak, and what a ternary search that presumes so misses.

    The search runs on the profiles that it would see: cross-validated AUC over layers, for each
    fold, pooling, dimension and target.

    Returns
    -------
    list of Estimate
        "profiles with several peaks" (shares), "ternary searches that miss the best layer"
        (shares) and "AUC lost by ternary search"; the intervals resample targets. `n` counts
        profiles.
    """
    table = study.layer_auc(encoder).query("not constant").dropna(subset="auc")
    rows = []
    for (_, _, _, target), of in table.groupby(["fold", "pooling", "dimension", "target"]):
        areas = of.sort_values("layer")["auc"].to_numpy()
        found = areas[ternary_search(areas.__getitem__, 0, len(areas) - 1)]
        rows.append((target, n_peaks(areas) > 1, found < areas.max(), areas.max() - found))
    columns = [
        "profiles with several peaks",
        "ternary searches that miss the best layer",
        "AUC lost by ternary search",
    ]
    profiles = pd.DataFrame(rows, columns=["target", *columns]).astype(float)
    if profiles.empty:
        return []
    by_target = profiles.groupby("target")[columns].mean().to_numpy()
    found = intervals(by_target, None, None, 2000, study.parameters.seed)
    return [
        row
        for metric, x in zip(columns, found, strict=True)
        for row in rows_of(metric, [(encoder, "")], [x], "train", len(profiles))
    ]
