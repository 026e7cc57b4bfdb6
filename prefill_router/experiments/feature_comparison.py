"""Feature sets against each other, on test rows: does choosing a layer, or an encoder, matter?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefill_router.evaluation.bootstrap import Interval, auc_intervals, intervals
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import brier, macro
from prefill_router.experiments.comparison import apply_policies, compare_choices, test_labels
from prefill_router.experiments.feature_sets import (
    ALL,
    BY_J,
    LAST,
    LOGISTIC,
    ONE,
    PAIRED,
    SEVERAL,
    TRUNK,
    feature_predictions,
    n_configurations,
)
from prefill_router.experiments.study import Study
from prefill_router.progress import track

RESAMPLES = 1000
"""Of intervals of AUC, whose resamples cost a sort each."""


def compare_features(study: Study) -> list[Estimate]:
    """Compare the feature sets of the main encoder and of all encoders by both heads, on test rows.

    Returns
    -------
    list of Estimate
        `router` is "FEATURES, ENCODER, HEAD". On test rows "AUC" and "Brier" (by target and, with
        an empty `target`, their mean) and "gap closed", by the policy that validation prefers;
        "... difference" of each from that of `ONE`, the recipe, with the same head and on the same
        resamples. On validation rows "Brier". And "configurations tried" for each target.
    """
    p = study.parameters
    trained = study.trained_encoders
    sets = [(LAST, [p.encoder]), (ONE, [p.encoder]), (BY_J, [p.encoder]), (ALL, [p.encoder])]
    if len(trained) > 1:
        sets += [(PAIRED, trained), (SEVERAL, trained)]
    if p.untrained:
        sets.append((ONE, [p.untrained]))
    found = []
    for head in (LOGISTIC, TRUNK):
        by_set = {
            _name(features, encoders, head): feature_predictions(study, features, encoders, head)
            for features, encoders in track(sets, f"Fitting feature sets, {head}")
        }
        found += evaluate_features(study, by_set, _name(ONE, [p.encoder], head))
    for features, encoders in sets:
        tried = Interval(n_configurations(study, features, encoders), np.nan, np.nan)
        name = (_name(features, encoders, "each head"), "")
        found += rows_of("configurations tried", [name], [tried], "train", study.labels.n_queries)
    return found


def compare_layers(study: Study) -> list[Estimate]:
    """Say for each encoder but the main one whether choosing a layer matters, on test rows.

    Returns
    -------
    list of Estimate
        Of `ALL` and `LAST`, by logistic heads, the differences from the same encoder's `ONE`, as
        `compare_features` has them for the main encoder; means over targets.
    """
    found = []
    others = [encoder for encoder in study.encoders if encoder != study.parameters.encoder]
    for encoder in track(others, "Comparing layers"):
        by_set = {
            _name(features, [encoder], LOGISTIC): feature_predictions(
                study, features, [encoder], LOGISTIC
            )
            for features in (ONE, ALL, LAST)
        }
        rows = evaluate_features(study, by_set, _name(ONE, [encoder], LOGISTIC))
        found += [row for row in rows if row.metric.endswith("difference") and not row.target]
    return found


def evaluate_features(
    study: Study, by_set: Mapping[str, Sequence[np.ndarray]], primary: str
) -> list[Estimate]:
    """Evaluate P(correct), (N, K) by fold, of each set; differences are each minus `primary`."""
    names, targets = list(by_set), [*study.labels.targets, ""]
    others = [name for name in names if name != primary]
    p = np.stack([study.over_folds(by_fold) for by_fold in by_set.values()], axis=1)
    correct = np.repeat(test_labels(study)[:, None], len(names), axis=1)
    groups = study.labels.group[study.test_rows]
    n_resamples, seed = study.parameters.n_resamples, study.parameters.seed

    def statistic(values: np.ndarray) -> np.ndarray:
        """Append means over targets, and differences from the primary."""
        values = values.reshape(len(values), len(names), -1)
        values = np.concatenate([values, macro(values)[..., None]], axis=2)
        first, rest = names.index(primary), [names.index(name) for name in others]
        difference = values[:, rest] - values[:, [first]]
        return np.hstack([each.reshape(len(values), -1) for each in (values, difference)])

    flat = (values.reshape(len(values), -1) for values in (p, correct, (p - correct) ** 2))
    scores, labels, squares = flat
    areas = auc_intervals(
        scores, labels, groups, statistic, min(RESAMPLES, n_resamples), seed, study.test_folds
    )
    briers = intervals(squares, groups, statistic, n_resamples, seed)
    known = ~np.isnan(correct[:, 0])
    counts = [*known.sum(axis=0).tolist(), int(known.any(axis=1).sum())]
    labels = [(name, target) for name in names for target in targets]
    pairs = [(name, target) for name in others for target in targets]
    found = []
    for metric, values in (("AUC", areas), ("Brier", briers)):
        first, rest = values[: len(labels)], values[len(labels) :]
        found += rows_of(metric, labels, first, "test", counts * len(names))
        found += rows_of(f"{metric} difference", pairs, rest, "test", counts * len(others))
    for name, by_fold in by_set.items():
        rows = [split.validation for split in study.splits]
        parts = zip(by_fold, rows, strict=True)
        mean = np.mean([macro(brier(p[held], study.labels.correct[held])) for p, held in parts])
        one = Interval(float(mean), np.nan, np.nan)
        found += rows_of("Brier", [(name, "")], [one], "validation", sum(map(len, rows)))
    return found + _gaps(study, by_set, primary)


def _gaps(study: Study, by_set: Mapping[str, Sequence[np.ndarray]], primary: str) -> list[Estimate]:
    choices = {name: apply_policies(study, by_fold).choice for name, by_fold in by_set.items()}
    rows = compare_choices(study, choices, primary)
    gaps = [row for row in rows if row.metric == "gap closed" and row.router in by_set]
    turned = [
        Estimate(row.metric, row.router.removeprefix(f"{primary} - "), "", row.split,
                 -row.estimate, -row.upper, -row.lower, row.n)
        for row in rows
        if row.metric == "gap closed difference"
    ]  # fmt: skip
    return gaps + turned


def _name(features: str, encoders: Sequence[str], head: str) -> str:
    return f"{features}, {encoders[0] if len(encoders) == 1 else 'trained encoders'}, {head}"
