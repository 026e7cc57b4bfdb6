"""Does a probe rank a study's layers as cross-validated AUC does; what does trusting it cost?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefill_router.bootstrap import Interval, intervals
from prefill_router.estimates import Estimate, rows_of
from prefill_router.study import Study


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
