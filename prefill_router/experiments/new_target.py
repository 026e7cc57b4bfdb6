"""A target is added: how many labels does its head need, and what may it borrow from the others?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, logit
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from prefill_router.baselines.classifiers import TargetLogistic
from prefill_router.evaluation.bootstrap import FEW, Ranking, Values
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import Quantity, results
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.study import Study
from prefill_router.metrics import macro
from prefill_router.progress import track
from prefill_router.recipe.heads import tuned
from prefill_router.router.added_targets import CLIP, NewTargetHead
from prefill_router.trunk import SharedTrunkEnsemble

SIZES = (10, 30, 100, 300, 1000)
TUNING_DRAWS = 2
TUNED_ON = 3
"""Other targets, at most, that are taken for new to choose what the heads are told beforehand."""
NO_LABEL = "others' mean"
OWN_HEAD = "own head"
SHARED = "shared difficulty"
SHARED_AND_FEATURES = "shared difficulty and own features"
FROZEN_TRUNK = "frozen trunk, new head"
SHARED_AND_TRUNK = "shared difficulty and frozen trunk"
PAIRS = ((SHARED_AND_TRUNK, OWN_HEAD), (SHARED_AND_TRUNK, FROZEN_TRUNK))
"""Heads that are compared."""


@dataclass(frozen=True)
class PriorKnowledge:
    """What is known of all N queries before the new target has any label.

    Attributes
    ----------
    X : ndarray of shape (N, D)
        Features from layers chosen for the other targets.
    p : ndarray of shape (N, K - 1)
        The other targets' P(correct), of each query by heads that were not fitted to it.
    trunk : ndarray of shape (N, 128)
        Standardised last hidden layer of a SharedTrunkNet of the other targets.
    """

    X: np.ndarray
    p: np.ndarray
    trunk: np.ndarray


@dataclass(frozen=True)
class NewHead:
    """A way to fit a new target's head: what it reads, and the settings that are tried.

    Settings are C of a logistic regression; of a head whose prior is the shared difficulty, the
    prior variance of what it reads, or of the likeness to others where it reads nothing.
    """

    settings: tuple[float, ...]
    reads: str = ""
    shared: bool = False

    def predict(
        self, setting: float, known: PriorKnowledge, rows: np.ndarray, y: np.ndarray, at: np.ndarray
    ) -> np.ndarray:
        """Return P(correct) of the queries `at`, (n,), by a head fitted to labels y of `rows`."""
        X = getattr(known, self.reads) if self.reads else np.empty((len(known.p), 0))
        if not self.shared:
            return TargetLogistic(setting).fit(X[rows], y[:, None]).predict_proba(X[at])[:, 0]
        head = NewTargetHead(own=setting) if self.reads else NewTargetHead(likeness=setting)
        return head.fit(known.p[rows], y, X[rows]).predict_proba(known.p[at], X[at])


HEADS = {
    OWN_HEAD: NewHead((0.003, 0.01, 0.03, 0.1), "X"),
    SHARED: NewHead((0.03, 0.1, 0.3), shared=True),
    SHARED_AND_FEATURES: NewHead((0.3, 1.0, 3.0), "X", shared=True),
    FROZEN_TRUNK: NewHead((0.001, 0.003, 0.01, 0.03), "trunk"),
    SHARED_AND_TRUNK: NewHead((0.3, 1.0, 3.0), "trunk", shared=True),
}


def label_budget(study: Study, most: int = 6) -> pd.DataFrame:
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
    pandas.DataFrame
        What `evaluate_budget` finds. Empty where no target has as many training labels as the
        least size.
    """
    labels, split, p = study.labels, study.splits[0], study.parameters
    fewest = (~np.isnan(labels.correct[split.train])).sum(axis=0).min()
    sizes = [size for size in SIZES if size <= fewest]
    if not sizes:
        return results()
    targets = range(min(labels.n_targets, most))
    found = study.kept(
        "new-target", lambda k: predict_new(study, k, sizes), track(targets, "Adding targets"),
        p.n_seeds, p.dimensions, p.criterion, p.inner_folds, sizes, encoders=[p.encoder],
    )  # fmt: skip
    Y, groups = labels.correct[split.test][:, targets], labels.group[split.test]
    at = Evaluation(Y, groups=groups, n_resamples=p.n_resamples, seed=p.seed)
    predicted, nothing = (np.stack([held[name] for held in found]) for name in ("p", "nothing"))
    return evaluate_budget(at, predicted, nothing, sizes)


def predict_new(study: Study, target: int, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Return P(correct) of the test queries, had a target few labels.

    Returns
    -------
    dict of str to ndarray
        ``"p"``, (S, n_sizes, n_heads, n): by draw of the labelled queries, number of labels and
        head of `HEADS`. ``"nothing"``, (n,): without any label, the other targets' mean logit.
    """
    split, Y = study.splits[0], study.labels.correct
    others = [k for k in range(study.labels.n_targets) if k != target]
    known, chosen = what_is_known(study, others), _tune(study, others, sizes)
    p = np.empty((study.parameters.n_seeds, len(sizes), len(HEADS), len(split.test)))
    for draw, (s, size) in product(range(len(p)), enumerate(sizes)):
        rows = _labelled(study, target, draw + TUNING_DRAWS)[:size]
        for h, (name, head) in enumerate(HEADS.items()):
            setting = chosen[size, name]
            p[draw, s, h] = head.predict(setting, known, rows, Y[rows, target], split.test)
    z = logit(known.p[split.test].clip(CLIP, 1 - CLIP))
    return {"p": p, "nothing": expit(z.mean(axis=1))}


def _tune(study: Study, others: list[int], sizes: Sequence[int]) -> dict[tuple[int, str], float]:
    """Choose each head's setting by size, taking some of the others for new to the rest."""
    Y, at = study.labels.correct, study.splits[0].validation
    scores: dict[tuple, float] = defaultdict(float)
    for other in others[:TUNED_ON] if len(others) > 1 else ():
        without = what_is_known(study, [k for k in others if k != other])
        for draw, size, (name, head) in product(range(TUNING_DRAWS), sizes, HEADS.items()):
            rows = _labelled(study, other, draw)[:size]
            for setting in head.settings:
                p = head.predict(setting, without, rows, Y[rows, other], at)
                scores[size, name, setting] += np.nanmean((p - Y[at, other]) ** 2)
    return {
        (size, name): min(head.settings, key=lambda setting: scores[size, name, setting])
        if scores
        else head.settings[len(head.settings) // 2]
        for size, (name, head) in product(sizes, HEADS.items())
    }


def _labelled(study: Study, target: int, draw: int) -> np.ndarray:
    """Return the training rows with a label of a target, in the order of a draw."""
    train = study.splits[0].train
    rows = train[~np.isnan(study.labels.correct[train, target])]
    return np.random.default_rng([study.parameters.seed, target, draw]).permutation(rows)


def what_is_known(study: Study, others: Sequence[int]) -> PriorKnowledge:
    """Fit what the other targets' labels tell, on the training rows of the study's first split."""
    split, p = study.splits[0], study.parameters
    Y, group = study.labels.correct[:, others], study.labels.group
    X = FoldFit(study, 0, [p.encoder]).distinct_features(targets=others).astype(float)
    train, best = split.train, tuned([TargetLogistic(C) for C in (0.001, 0.01, 0.1)], X, Y, split)
    predicted = best.predict_proba(X)
    folds = GroupKFold(p.inner_folds, shuffle=True, random_state=p.seed)
    for inner, outer in folds.split(train, groups=group[train]):
        model = TargetLogistic(best.C).fit(X[train[inner]], Y[train[inner]])
        predicted[train[outer]] = model.predict_proba(X[train[outer]])
    trunk = SharedTrunkEnsemble(1, 1, random_state=p.seed, device=study.training_device)
    trunk.fit(X[train], Y[train], group[train])
    hidden = last_hidden(trunk, X)
    return PriorKnowledge(X, predicted, StandardScaler().fit(hidden[train]).transform(hidden))


def last_hidden(ensemble: SharedTrunkEnsemble, X: np.ndarray) -> np.ndarray:
    """Return what the last layer of an ensemble's best network reads, (N, 128)."""
    x = torch.from_numpy(np.asarray(X, dtype=np.float32))
    with torch.inference_mode():
        for linear in ensemble.networks_[0].linears[:-1]:
            x = torch.relu(linear(x))
    return x.numpy().astype(np.float64)


def evaluate_budget(
    at: Evaluation, p: np.ndarray, nothing: np.ndarray, sizes: Sequence[int]
) -> pd.DataFrame:
    """Evaluate heads by number of labels, on average over targets and draws.

    Parameters
    ----------
    at : Evaluation
        The n test queries and K targets.
    p : ndarray of shape (K, S, n_sizes, n_heads, n)
        P(correct) of these queries by target, draw of labels, number of them, and head.
    nothing : ndarray of shape (K, n)
        Without a label.
    sizes : sequence of int

    Returns
    -------
    pandas.DataFrame
        "AUC" and "Brier" of each head (`router`) by number of labels (`x`), and differences of
        `PAIRS`; and of `NO_LABEL`, where x is 0. Intervals are over query groups and draws.
    """
    n_draws, rng = p.shape[1], np.random.default_rng(at.seed)
    asked = [*((head, "") for head in HEADS), *PAIRS]

    def average(m: Values) -> np.ndarray:
        """Average over targets and draws, and in resamples over draws that are drawn again."""
        again = rng.multinomial(n_draws, np.full(n_draws, 1 / n_draws), size=len(m["p"]))
        is_sample = len(m["p"]) == 1  # no chunk of resamples is a single row
        weights = np.ones((1, n_draws)) if is_sample else again
        by_head = np.einsum("bd,bdsh->hbs", weights / n_draws, np.nanmean(m["p"], axis=1))
        score = dict(zip(HEADS, by_head, strict=True))
        return np.hstack([score[a] - score[b] if b else score[a] for a, b in asked])

    p, nothing = np.moveaxis(p, -1, 0), nothing.T
    Y = np.broadcast_to(at.correct[:, :, None, None, None], p.shape)
    columns = {
        "AUC": {"p": Ranking(p, Y), NO_LABEL: Ranking(nothing, at.correct)},
        "Brier": {"p": (p - Y) ** 2, NO_LABEL: (nothing - at.correct) ** 2},
    }
    found = []
    for metric, values in columns.items():
        heads = tuple(Quantity(metric, *of, x=size) for of in asked for size in sizes)
        no_label = Quantity(metric, NO_LABEL, x=0)
        of = {heads: average, no_label: lambda m: macro(m[NO_LABEL])}
        found.append(at.estimate(values, of, FEW))
    return pd.concat(found, ignore_index=True)
