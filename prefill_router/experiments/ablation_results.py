"""What each ablation changes, on validation and on test: paired with the recipe, and by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest

from prefill_router.evaluation import metrics
from prefill_router.evaluation.bootstrap import auc_intervals, few, intervals
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.experiments.ablations import (
    Networks,
    Predictions,
    configurations,
    repeats,
    trained,
    variants,
)
from prefill_router.experiments.comparison import choose_targets
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.study import Study
from prefill_router.trunk import SharedTrunkEnsemble

METRICS = ("gap closed", "AUC", "Brier")
PARTS = ("validation", "test")
KEPT = "networks averaged"
TRIED = "configurations tried"
STOPPED = "trained to the last epoch"
SEED_RESAMPLES = 200
"""Resamples behind the interval of one seed's difference."""


def ablate(study: Study) -> list[Estimate]:
    """Compare every configuration with the recipe.

    Parameters
    ----------
    study : Study

    Returns
    -------
    list of Estimate
        On the validation and on the test queries: gap closed, AUC and Brier score (both averaged
        over targets) of each configuration; "... difference" of router ``"A - SharedTrunkNet"``,
        and of ``"A, seed 1 - SharedTrunkNet, seed 1"`` and so on, see `ablations.repeats`. A
        policy's tolerance is chosen on validation queries, so that gaps closed on those are all
        somewhat too good. Of each variant `STOPPED`, see `last_epoch`. Of the recipe `KEPT`, the
        networks that it averages, and `TRIED`, how many configurations were compared.
    """
    p = configurations(study)
    pairs = [(name, PRIMARY) for name in p if name != PRIMARY]
    by_seed, pairs_by_seed = repeats(study)
    choices = {
        name: [choose_targets(study, fold, values)[0] for fold, values in enumerate(folds)]
        for name, folds in (p | by_seed).items()
    }
    n_resamples = study.parameters.n_resamples
    fewest = min(SEED_RESAMPLES, n_resamples)
    rows = []
    for part in PARTS:
        rows += compare(study, part, p, choices, pairs, n_resamples)
        again = compare(study, part, by_seed, choices, pairs_by_seed, fewest)
        rows += [row for row in again if row.metric.endswith(" difference")]
    rows += [last_epoch(name, trained(study, name)) for name in variants(study)]
    counts = ((KEPT, study.parameters.keep), (TRIED, len(p)))
    return rows + [Estimate(what, PRIMARY, "", "train", n, n, n, 0) for what, n in counts]


def last_epoch(name: str, folds: Sequence[Networks]) -> Estimate:
    """Return `STOPPED`: the share of a variant's networks that training did not stop early.

    What often is might gain from more epochs. The interval is Wilson's.

    References
    ----------
    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the
    American Statistical Association, 1927.
    """
    epochs = np.concatenate([fold.epochs.ravel() for fold in folds])
    late = int((epochs == SharedTrunkEnsemble().max_epochs).sum())
    low, high = binomtest(late, len(epochs)).proportion_ci(method="wilson")
    return Estimate(STOPPED, name, "", "train", late / len(epochs), low, high, len(epochs))


def compare(
    study: Study,
    part: str,
    p: Mapping[str, Predictions],
    choices: Mapping[str, list[np.ndarray]],
    pairs: Sequence[tuple[str, str]],
    n_resamples: int,
) -> list[Estimate]:
    """Evaluate predictions on one part of every fold, and the differences of pairs of them.

    Parameters
    ----------
    study : Study
    part : {"validation", "test"}
    p : mapping of str to list of (N, K) arrays
        P(correct) in each fold.
    choices : mapping of str to list of (N,) int arrays
        The targets asked in each fold, of all names in `p`.
    pairs : sequence of (str, str)
        Names of which the first is compared with the second.
    n_resamples : int
        Of query groups, the same for all names; of AUC at most `bootstrap.FEW`.

    Returns
    -------
    list of Estimate
    """
    rows = [getattr(split, part) for split in study.splits]
    fold = np.repeat(np.arange(len(rows)), [len(r) for r in rows])

    def here(by_fold: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([values[r] for values, r in zip(by_fold, rows, strict=True)])

    names, seed = list(p), study.parameters.seed
    first, second = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))

    def with_differences(values: np.ndarray) -> np.ndarray:
        return np.hstack([values, values[:, first] - values[:, second]])

    def over_targets(values: np.ndarray) -> np.ndarray:
        return with_differences(metrics.macro(values.reshape(len(values), len(names), -1)))

    def gaps(means: np.ndarray) -> np.ndarray:
        best, oracle = means[:, [-2]], means[:, [-1]]
        return with_differences(metrics.gap_closed(means[:, :-2], best, oracle))

    Y, groups = (here([of] * len(rows)) for of in (study.labels.correct, study.labels.group))
    kept = complete(Y, groups=groups)
    labels = kept.correct
    asked = [here(choices[name])[kept.rows] for name in names]
    asked.append(np.array(study.best_single)[fold][kept.rows])
    right = np.take_along_axis(labels, np.column_stack(asked), axis=1)
    right = np.column_stack([right, labels.max(axis=1)])  # the oracle's are the last
    scores, repeated = np.hstack([here(p[name]) for name in names]), np.tile(Y, len(names))
    squares, fewer = (scores - repeated) ** 2, few(n_resamples)
    found = (
        intervals(right, kept.groups, gaps, n_resamples, seed),
        auc_intervals(scores, repeated, groups, over_targets, fewer, seed, fold),
        intervals(squares, groups, over_targets, n_resamples, seed),
    )
    labelled = int((~np.isnan(Y)).any(axis=1).sum())
    alone, differences = [(n, "") for n in names], [(f"{a} - {b}", "") for a, b in pairs]
    result = []
    for metric, these, n in zip(METRICS, found, (len(labels), labelled, labelled), strict=True):
        result += rows_of(metric, alone, these[: len(names)], part, n)
        result += rows_of(f"{metric} difference", differences, these[len(names) :], part, n)
    return result
