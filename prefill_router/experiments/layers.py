"""Which layer? Do probes rank layers as AUC does, what does trusting one cost, is AUC unimodal?

Probes, cross-validation and heads know training rows only. What they promise is held against
cross-validated AUC, on the same training rows, or against AUC on validation rows, which no choice
has seen. Test rows are not looked at. Intervals on validation rows resample groups of queries, and
what is compared is compared on the same resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from prefill_router.evaluation.bootstrap import FEW, Ranking, estimate
from prefill_router.evaluation.results import Quantity, counted, results
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.study import Study
from prefill_router.features.logistic import fit_logistic, predict_logistic
from prefill_router.metrics import macro, ratio
from prefill_router.probes.decomposition import decompose
from prefill_router.progress import track

PLACE = ["fold", "layer", "pooling", "target"]
GEOMETRY = ("J", "J_pca", "J_white", "d_eff", "anisotropy")
CROSS_VALIDATED, TERNARY = "cross-validated AUC", "ternary search"
RANKERS = {name: name for name in GEOMETRY} | {CROSS_VALIDATED: "auc"}
"""What may rank layers, and the columns of `layer_heads` that hold it."""
SPEARMAN = "Spearman with AUC"
LOST = "AUC lost by its choice"
DIP = "depth of the deepest dip"
ALL = "all"
"""In place of a pooling: the states of all poolings together."""


def layer_heads(study: Study, encoder: str) -> pd.DataFrame:
    """Return what training rows say of a head on each layer, pooling and target, in every fold.

    Returns
    -------
    pandas.DataFrame
        Columns `PLACE`, the probes of `GEOMETRY`, ``auc`` (cross-validated) and the ``dimension``
        with the highest one. Constant states have no head.
    """
    best = study.layer_auc(encoder).sort_values(["auc", "dimension"], ascending=[False, True])
    best = best.drop_duplicates(PLACE)[[*PLACE, "dimension", "auc"]]
    heads = study.probes(encoder).query("not constant").merge(best, on=PLACE)
    return heads.sort_values(PLACE, ignore_index=True)


def layer_profiles(study: Study, encoder: str) -> pd.DataFrame:
    """Return the probes and the cross-validated AUC of training rows by layer and pooling.

    Returns
    -------
    pandas.DataFrame
        Results without intervals, means over targets and folds; `n` counts training rows.
    """
    heads = layer_heads(study, encoder).rename(columns={"auc": CROSS_VALIDATED})
    means = heads.groupby(["pooling", "layer"])[[*GEOMETRY, CROSS_VALIDATED]].mean()
    n = sum(len(split.train) for split in study.splits) // len(study.splits)
    about = {"encoder": encoder, "split": "train", "n": n}
    return results(
        counted(Quantity(metric, layer=layer, pooling=pooling, **about), value)
        for metric, values in means.items()
        for (pooling, layer), value in values.items()
    )


def training_ranking(study: Study, encoder: str) -> pd.DataFrame:
    """Compare the order of layers by each probe with that by cross-validated AUC.

    Returns
    -------
    pandas.DataFrame
        Results of `SPEARMAN` and `LOST` as in `held_out_ranking`; intervals resample targets. `n`
        counts layers.
    """
    heads = layer_heads(study, encoder)
    compared = _compare(heads, heads["auc"].to_numpy()[None], encoder)
    columns = {replace(of, split="train"): values[0] for of, values in compared.items()}
    means = {replace(of, n=heads["layer"].nunique()): itemgetter(of) for of in columns}
    return estimate(columns, means, seed=study.parameters.seed)


def held_out_ranking(study: Study, encoder: str) -> pd.DataFrame:
    """Compare the order of layers by each probe of training rows with that by AUC on held-out rows.

    Returns
    -------
    pandas.DataFrame
        Results on validation rows; means over folds and targets. Intervals are centred, for the
        noise of resamples lowers rank correlations.

        - "AUC" of each layer and pooling.
        - `SPEARMAN` of each of `RANKERS` (the `router`) by pooling, and over `ALL` of them. That of
          cross-validated AUC is as much as the noise of the held-out AUC allows. Over all
          poolings also J_white `versus` J.
        - `LOST`: the AUC of what cross-validation chooses minus that of what the probe chooses (of
          anisotropy the least), or a `TERNARY` search for the peak of cross-validated AUC. A lucky
          choice makes it negative.
        - `DIP`: where the cross-validated profile (mean over targets) has its deepest valley
          between two peaks, how deep that is on held-out rows; above 0 the profile has two peaks.
          With one split it is chosen on other rows, and not biased by the choice. A minimum lies
          low: below 0 it does not show that there is one peak.
    """
    heads, at = layer_heads(study, encoder), held_out(study, "validation")
    with_auc = heads.dropna(subset="auc")

    def asked(areas: np.ndarray) -> dict[Quantity, np.ndarray]:
        found = {of: macro(values) for of, values in _compare(heads, areas, encoder).items()}
        for pooling, here in with_auc.groupby("pooling"):
            about = Quantity("AUC", encoder=encoder, pooling=pooling)
            for layer, rows in here.groupby("layer"):
                found[replace(about, layer=layer)] = _area(rows, areas)
            found[replace(about, metric=DIP)] = _dip(here, areas)
        return found

    quantities = tuple(asked(heads["auc"].to_numpy()[None]))
    found = at.estimate(
        {"AUC": Ranking(*held_out_scores(study, encoder, heads))},
        {quantities: lambda m: np.column_stack(list(asked(m["AUC"]).values()))},
        FEW,
        centred=True,
    )
    ranks, bounds = found["metric"].eq(SPEARMAN) & found["versus"].eq(""), ["lower", "upper"]
    found.loc[ranks, bounds] = found.loc[ranks, bounds].clip(-1, 1)
    return found


def held_out_scores(
    study: Study, encoder: str, heads: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression for each of `heads`, and predict the validation rows of its fold.

    Returns
    -------
    scores, correct : ndarrays of shape (n, M)
        A column a head; labels are NaN where never asked, and on rows of other folds.
    """
    activations, at = study.activations(encoder), held_out(study, "validation")
    scores = np.full((len(at.rows), len(heads)), np.nan)
    places = heads.groupby(["fold", "layer", "pooling"])
    for (fold, layer, pooling), here in track(places, "Predicting held-out rows", len(places)):
        states, train = activations.states(layer, pooling), study.splits[fold].train
        rows = np.flatnonzero(at.folds == fold)
        reduction = decompose(states[train], here["dimension"].max())
        inner, outer = (reduction.transform(states[part]) for part in (train, at.rows[rows]))
        for dimension, same in here.groupby("dimension"):
            Y = study.labels.correct[np.ix_(train, same["target"])]
            model = fit_logistic(inner[:, :dimension], Y)
            scores[np.ix_(rows, same.index)] = predict_logistic(outer[:, :dimension], *model)
    return scores, np.where(np.isnan(scores), np.nan, at.correct[:, heads["target"]])


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
    at = functools.cache(score)
    while last - first > 2:
        third = (last - first) // 3
        left, right = first + third, last - third
        if at(left) < at(right):
            first = left + 1
        else:
            last = right - 1
    return max(range(first, last + 1), key=at)


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
    sides = [
        (int(np.argmax(profile[:j])), j, j + 1 + int(np.argmax(profile[j + 1 :])))
        for j in range(1, len(profile) - 1)
    ]
    return max(sides, key=lambda at: min(profile[at[0]], profile[at[2]]) - profile[at[1]])


def _compare(heads: pd.DataFrame, areas: np.ndarray, encoder: str) -> dict[Quantity, np.ndarray]:
    """How rankers order the layers of each target, and what their choices lose, (B, targets).

    `SPEARMAN` and `LOST` by AUCs (B, M) of the heads in B resamples: means over folds.
    """
    with_auc = heads.dropna(subset="auc")
    poolings = {name: [name] for name in heads["pooling"]}
    poolings[ALL] = list(poolings)
    folds = [[rows for _, rows in of.groupby("fold")] for _, of in with_auc.groupby("target")]

    def by_target(statistic: Callable[[pd.DataFrame], np.ndarray]) -> np.ndarray:
        means = [macro(np.column_stack([statistic(rows) for rows in of])) for of in folds]
        return np.column_stack(means or [np.full(len(areas), np.nan)])

    found = {}
    for ranker, column in RANKERS.items():
        of = Quantity(SPEARMAN, ranker, encoder=encoder)
        for pooling, names in poolings.items():
            found[replace(of, pooling=pooling)] = by_target(
                lambda rows, c=column, n=names: _spearman(rows[rows["pooling"].isin(n)], c, areas)
            )
    white, plain = (Quantity(SPEARMAN, of, encoder=encoder, pooling=ALL) for of in ("J_white", "J"))
    found[replace(white, versus="J")] = found[white] - found[plain]
    for ranker in (*GEOMETRY, TERNARY):
        found[Quantity(LOST, ranker, encoder=encoder)] = by_target(
            lambda rows, r=ranker: _loss(rows, r, areas)
        )
    return found


def _area(heads: pd.DataFrame, areas: np.ndarray) -> np.ndarray:
    """Mean AUC of heads."""
    return macro(areas[:, heads.index])


def _spearman(heads: pd.DataFrame, probe: str, areas: np.ndarray) -> np.ndarray:
    """Rank correlation of a probe with the AUCs of its heads."""
    ranks = rankdata(heads[probe])
    ranks = ranks - ranks.mean()
    theirs = rankdata(areas[:, heads.index], axis=1, nan_policy="propagate")
    theirs = theirs - theirs.mean(axis=1, keepdims=True)
    return ratio(theirs @ ranks, np.sqrt(np.sum(theirs**2, axis=1) * np.sum(ranks**2)))


def _loss(heads: pd.DataFrame, ranker: str, areas: np.ndarray) -> np.ndarray:
    """AUC of the head that cross-validation chooses minus that of the head the ranker chooses."""
    if ranker == TERNARY:
        values = heads["auc"][[_searched(rows["auc"]) for _, rows in heads.groupby("pooling")]]
    else:
        values = -heads[ranker] if ranker == "anisotropy" else heads[ranker]
    if values.isna().all():
        return np.full(len(areas), np.nan)
    return areas[:, heads["auc"].idxmax()] - areas[:, values.idxmax()]


def _searched(profile: pd.Series) -> int:
    """Return the label of the peak that a ternary search finds."""
    return profile.index[ternary_search(profile.to_numpy().__getitem__, 0, len(profile) - 1)]


def _dip(heads: pd.DataFrame, areas: np.ndarray) -> np.ndarray:
    """Depth of the valley that training rows show between two peaks, in AUC of held-out rows."""
    layers = [rows for _, rows in heads.groupby("layer")]
    at = deepest_dip(np.array([rows["auc"].mean() for rows in layers]))
    if at is None:
        return np.full(len(areas), np.nan)
    left, valley, right = (_area(layers[place], areas) for place in at)
    return np.minimum(left, right) - valley
