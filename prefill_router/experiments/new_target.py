"""A target is added: how many labels does its head need, and what may it borrow from the others?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import torch

from prefill_router.baselines.classifiers import TargetLogistic
from prefill_router.evaluation.results import results, select
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.experiments.study import Study
from prefill_router.progress import track
from prefill_router.recipe.heads import train_networks
from prefill_router.router.added_targets import NewTargetHead
from prefill_router.trunk import SharedTrunkEnsemble

SIZES = (30, 100, 300)
N_DRAWS = 5
MOST = 3
"""Targets that are taken to be new, at most."""
NO_LABEL, ALL_LABELS = "others' mean, no label", "SharedTrunkNet, all labels"
OWN_HEAD, FROZEN_TRUNK, SHARED = "own head", "frozen trunk, new head", "shared difficulty"
HEADS = OWN_HEAD, FROZEN_TRUNK, SHARED
PAIRS = ((SHARED, OWN_HEAD), (FROZEN_TRUNK, OWN_HEAD), (SHARED, FROZEN_TRUNK))


def label_budget(study: Study) -> pd.DataFrame:
    """Take each target to be new in turn, and compare heads by the number of its labels.

    In the study's first split: what the others tell is fitted to training rows, and the new
    target's labels are drawn, `N_DRAWS` times, from validation rows, which that fit has not seen.
    No setting is tuned.

    Returns
    -------
    pandas.DataFrame
        Results on test rows: "AUC" and "Brier", on average over new targets and draws, of `HEADS`
        and differences of `PAIRS` by number of labels (`x`); of `NO_LABEL`, where x is 0; and of
        `ALL_LABELS`, the study's own router. Empty where a target has fewer labels than any of
        `SIZES`.
    """
    labels, split, p = study.labels, study.splits[0], study.parameters
    new = range(min(labels.n_targets, MOST))
    fewest = (~np.isnan(labels.correct[split.validation])).sum(axis=0).min()
    sizes = [size for size in SIZES if size <= fewest]
    if not sizes:
        return results()
    found = study.kept(
        "few-labels", lambda k: predict_new(study, k, sizes), track(new, "Adding targets"),
        p.dimensions, p.criterion, p.inner_folds, sizes, encoders=[p.encoder],
    )  # fmt: skip
    at = held_out(study).take(study.test_folds == 0)
    at = replace(at, correct=at.correct[:, new], targets=())
    draws = replace(at, correct=np.repeat(at.correct, N_DRAWS, axis=1))
    whole = {
        NO_LABEL: np.column_stack([held["nothing"] for held in found]),
        ALL_LABELS: predictions(study, PRIMARY)[0][split.test][:, new],
    }
    metrics = ("AUC", "Brier")
    rows = [select(at.probabilities(whole, only=metrics)).assign(x=0.0)]
    for s, size in enumerate(sizes):
        heads = np.concatenate([held["p"][:, s] for held in found])  # by target and draw
        by_head = {head: heads[:, h].T for h, head in enumerate(HEADS)}
        compared = draws.probabilities(by_head, PAIRS, metrics)
        rows.append(select(compared, versus=None).assign(x=size))
    return pd.concat(rows, ignore_index=True)


def predict_new(study: Study, new: int, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Return P(correct) of the test queries, had a target few labels.

    Features are from the layers chosen for the other targets; one SharedTrunkNet of these targets
    gives the trunk and their P(correct).

    Returns
    -------
    dict of str to ndarray
        ``"p"``, (S, n_sizes, n_heads, n): by draw of the labelled queries, number of labels and
        head of `HEADS`. ``"nothing"``, (n,): without any label, the other targets' mean logit.
    """
    split, Y, seed = study.splits[0], study.labels.correct, study.parameters.seed
    others = [k for k in range(study.labels.n_targets) if k != new]
    it = FoldFit(study, 0, [study.parameters.encoder])
    x = it.distinct([it.choices[k] for k in others])
    known = x, Y[:, others], study.labels.group, split.train
    trunk = train_networks(study.recipe(), *known, n_seeds=1, keep=1)
    hidden, p_others = last_hidden(trunk, x), trunk.predict_proba(x)
    y, test = Y[:, new], split.test
    labelled = split.validation[~np.isnan(y[split.validation])]
    p = np.empty((N_DRAWS, len(sizes), len(HEADS), len(test)))
    for draw, (s, size) in product(range(N_DRAWS), enumerate(sizes)):
        rows = np.random.default_rng([seed, new, draw]).permutation(labelled)[:size]
        shared = NewTargetHead().fit(p_others[rows], y[rows])
        p[draw, s, 0] = from_features(x, rows, y[rows])[test]
        p[draw, s, 1] = from_features(hidden, rows, y[rows])[test]
        p[draw, s, 2] = shared.predict_proba(p_others[test])
    no_label = NewTargetHead().fit(p_others[:0], y[:0])
    return {"p": p, "nothing": no_label.predict_proba(p_others[test])}


def from_features(x: np.ndarray, rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return P(correct) of all queries, (N,), by a logistic regression fitted to some.

    Its penalty is the prior that log-odds vary by about one between queries: C is one over the
    features' total variance.
    """
    head = TargetLogistic(1 / x.var(axis=0).sum()).fit(x[rows], y[:, None])
    return head.predict_proba(x)[:, 0]


def last_hidden(ensemble: SharedTrunkEnsemble, x: np.ndarray) -> np.ndarray:
    """Return what the last layer of an ensemble's best network reads, (N, 128)."""
    states = torch.from_numpy(np.asarray(x, dtype=np.float32))
    with torch.inference_mode():
        for linear in ensemble.networks_[0].linears[:-1]:
            states = torch.relu(linear(states))
    return states.numpy().astype(np.float64)
