"""A target is added: how many labels does its head need, and what may it borrow from the others?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.special import expit, logit

from prefill_router.evaluation.bootstrap import auc_intervals, few, intervals
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.experiments.new_target_heads import (
    BOTH,
    FROZEN,
    HEADS,
    OWN,
    SHARED,
    TRUNK,
    what_is_known,
)
from prefill_router.experiments.study import Study
from prefill_router.progress import track
from prefill_router.router.new_target_head import CLIP

SIZES = (10, 30, 100, 300, 1000)
TUNING_DRAWS = 2
TUNED_ON = 3
"""Other targets, at most, that are taken for new to choose what the heads are told beforehand."""
NO_LABEL = "others' mean, no label"
PAIRS = (
    *[(head, OWN) for head in (SHARED, BOTH, FROZEN, TRUNK)],
    *[(TRUNK, head) for head in (SHARED, BOTH, FROZEN)],
)


def label_budget(study: Study, most: int = 6) -> list[Estimate]:
    """Take each target to be new in turn, and compare heads by the number of its labels.

    In the study's first split. The labelled queries are drawn from training rows, `n_seeds` times;
    what the heads have to be told beforehand is chosen, for each size, on `TUNED_ON` of the *other*
    targets, as if each of those were new to what the rest know, by the Brier score of validation
    rows; the middle setting where there is one other target alone. The new target's own labels are
    used for nothing but the fit, and its test rows are looked at once.

    Parameters
    ----------
    study : Study
    most : int, default 6
        Targets that are taken to be new, at most: the first.

    Returns
    -------
    list of Estimate
        "AUC" and "Brier" of router ``"HEAD, n labels"`` on average over targets and draws, with
        differences of `PAIRS`; intervals are over query groups and draws. Empty where no target
        has as many training labels as the least size.
    """
    labels, split = study.labels, study.splits[0]
    n_targets = min(labels.n_targets, most)
    fewest = (~np.isnan(labels.correct[split.train])).sum(axis=0).min()
    sizes = [size for size in SIZES if size <= fewest]
    if not sizes:
        return []
    p = [predict_new(study, k, sizes) for k in track(range(n_targets), "Adding targets")]
    return evaluate_budget(
        np.stack([by_target[0] for by_target in p]),
        np.stack([by_target[1] for by_target in p]),
        labels.correct[split.test][:, :n_targets],
        labels.group[split.test],
        sizes=sizes,
        n_resamples=study.parameters.n_resamples,
        seed=study.parameters.seed,
    )


def predict_new(study: Study, target: int, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return P(correct) of the test queries, had a target few labels.

    Returns
    -------
    p : ndarray of shape (S, n_sizes, n_heads, n)
        By draw of the labelled queries, number of labels and head (in the order of
        `new_target_heads.HEADS`).
    nothing : ndarray of shape (n,)
        With no label at all: the other targets' mean logit.
    """
    settings = study.parameters
    key = study.key(
        settings.n_seeds, settings.dimensions, settings.criterion, settings.inner_folds, list(sizes)
    )
    key |= {"states": study.states_key(settings.encoder), "target": target}

    def build(directory: Path) -> None:
        p, nothing = _predict_new(study, target, sizes)
        save_file({"p": p, "nothing": nothing}, directory / "p.safetensors")

    directory = study.store.get("label-budget", key, build, stage="experiments")
    found = load_file(directory / "p.safetensors")
    return found["p"], found["nothing"]


def _predict_new(study: Study, target: int, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    split, Y, seed = study.splits[0], study.labels.correct, study.parameters.seed
    others = [k for k in range(study.labels.n_targets) if k != target]
    known = what_is_known(study, others)

    def labelled(k: int, draw: int) -> np.ndarray:
        rows = split.train[~np.isnan(Y[split.train, k])]
        return np.random.default_rng([seed, k, draw]).permutation(rows)

    scores = np.zeros((len(sizes), len(HEADS), max(map(len, HEADS.values()))))
    at = split.validation
    for other in others[:TUNED_ON] if len(others) > 1 else ():
        without = what_is_known(study, [k for k in others if k != other])
        for draw in range(TUNING_DRAWS):
            order = labelled(other, draw)
            for s, size in enumerate(sizes):
                rows = order[:size]
                for h, candidates in enumerate(HEADS.values()):
                    for c, head in enumerate(candidates):
                        p = head(without, rows, Y[rows, other], at)
                        scores[s, h, c] += np.nanmean((p - Y[at, other]) ** 2)
    heads = [
        [
            candidates[int(scores[s, h, : len(candidates)].argmin())]
            if len(others) > 1
            else candidates[len(candidates) // 2]
            for s in range(len(sizes))
        ]
        for h, candidates in enumerate(HEADS.values())
    ]
    p = np.empty((study.parameters.n_seeds, len(sizes), len(HEADS), len(split.test)))
    for draw in range(len(p)):
        order = labelled(target, draw + TUNING_DRAWS)
        for s, size in enumerate(sizes):
            rows = order[:size]
            for h, chosen in enumerate(heads):
                p[draw, s, h] = chosen[s](known, rows, Y[rows, target], split.test)
    z = logit(known.p[split.test].clip(CLIP, 1 - CLIP))
    return p, expit(z.mean(axis=1))


def evaluate_budget(
    p: np.ndarray,
    nothing: np.ndarray,
    correct: np.ndarray,
    groups: np.ndarray,
    *,
    sizes: Sequence[int],
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Evaluate heads by number of labels, on average over targets and draws.

    Parameters
    ----------
    p : ndarray of shape (K, S, n_sizes, n_heads, n)
        P(correct) of the test queries by target, draw of labels, number of them, and head.
    nothing : ndarray of shape (K, n)
        Without a label.
    correct : ndarray of shape (n, K)
        1 right, 0 wrong, NaN never asked.
    groups, n_resamples, seed
        As in `bootstrap.intervals`.
    sizes : sequence of int

    Returns
    -------
    list of Estimate
        See `label_budget`.
    """
    n_targets, n_draws, n_sizes, n_heads, n = p.shape
    rng = np.random.default_rng(seed)

    def average(columns: np.ndarray) -> np.ndarray:
        """Average over targets and draws, and in resamples over draws that are drawn again."""
        mine = columns[:, : p[..., 0].size].reshape(-1, n_targets, n_draws, n_sizes * n_heads)
        again = rng.multinomial(n_draws, np.full(n_draws, 1 / n_draws), size=len(columns))
        is_sample = len(columns) == 1  # no chunk of resamples is a single row
        weights = np.ones((1, n_draws)) if is_sample else again
        by_draw = np.nanmean(mine, axis=1)
        means = np.einsum("bs,bsm->bm", weights / n_draws, by_draw)
        without = np.nanmean(columns[:, p[..., 0].size :], axis=1, keepdims=True)
        differences = [means[:, i] - means[:, j] for i, j in pairs.values()]
        return np.column_stack([means, without, *differences])

    heads = list(HEADS)
    pairs = {
        f"{a} - {b}, {size} labels": (s * n_heads + heads.index(a), s * n_heads + heads.index(b))
        for s, size in enumerate(sizes)
        for a, b in PAIRS
    }
    names = [f"{head}, {size} labels" for size in sizes for head in heads]
    scores = np.concatenate([p.reshape(-1, n), nothing]).T
    outcomes = np.repeat(correct, n_draws * n_sizes * n_heads, axis=1)
    outcomes = np.hstack([outcomes, correct])
    found = {
        "AUC": auc_intervals(scores, outcomes, groups, average, few(n_resamples), seed),
        "Brier": intervals((scores - outcomes) ** 2, groups, average, few(n_resamples), seed),
    }
    result = []
    for metric, values in found.items():
        keys = [(name, "") for name in [*names, NO_LABEL]]
        result += rows_of(metric, keys, values[: len(keys)], "test", n)
        keys = [(name, "") for name in pairs]
        result += rows_of(f"{metric} difference", keys, values[-len(keys) :], "test", n)
    return result
