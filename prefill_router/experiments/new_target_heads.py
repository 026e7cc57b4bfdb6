"""Heads of a target that is new, and what they may know of its queries from the other targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from prefill_router.baselines.linear import TargetLogistic
from prefill_router.experiments.fold import Fold
from prefill_router.experiments.study import Study
from prefill_router.router.new_target_head import NewTargetHead
from prefill_router.trunk import SharedTrunkEnsemble

OWN = "own head"
SHARED = "shared difficulty"
BOTH = "shared difficulty and own features"
FROZEN = "frozen trunk, new head"
TRUNK = "shared difficulty and frozen trunk"


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


Head = Callable[[PriorKnowledge, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _logistic(read: Callable[[PriorKnowledge], np.ndarray], C: float) -> Head:
    def predict(
        known: PriorKnowledge, rows: np.ndarray, y: np.ndarray, at: np.ndarray
    ) -> np.ndarray:
        X = read(known)
        return TargetLogistic(C).fit(X[rows], y[:, None]).predict_proba(X[at])[:, 0]

    return predict


def _leaning(
    likeness: float = 0.1,
    read: Callable[[PriorKnowledge], np.ndarray] | None = None,
    own: float = 1.0,
) -> Head:
    def predict(
        known: PriorKnowledge, rows: np.ndarray, y: np.ndarray, at: np.ndarray
    ) -> np.ndarray:
        head, X = NewTargetHead(likeness=likeness, own=own), read and read(known)
        head.fit(known.p[rows], y, None if X is None else X[rows])
        return head.predict_proba(known.p[at], None if X is None else X[at])

    return predict


HEADS: dict[str, list[Head]] = {
    OWN: [_logistic(lambda known: known.X, C) for C in (0.003, 0.01, 0.03, 0.1)],
    SHARED: [_leaning(likeness) for likeness in (0.03, 0.1, 0.3)],
    BOTH: [_leaning(read=lambda known: known.X, own=own) for own in (0.3, 1.0, 3.0)],
    FROZEN: [_logistic(lambda known: known.trunk, C) for C in (0.001, 0.003, 0.01, 0.03)],
    TRUNK: [_leaning(read=lambda known: known.trunk, own=own) for own in (0.3, 1.0, 3.0)],
}
N_CONFIGURATIONS = sum(map(len, HEADS.values()))


def what_is_known(study: Study, others: Sequence[int]) -> PriorKnowledge:
    """Fit what the other targets' labels tell, on the training rows of the study's first split."""
    split, p = study.splits[0], study.parameters
    Y, group = study.labels.correct[:, others], study.labels.group
    X = Fold(study, 0, [p.encoder]).distinct_features(targets=others).astype(float)
    train, v = split.train, split.validation
    fitted = {C: TargetLogistic(C).fit(X[train], Y[train]) for C in (0.001, 0.01, 0.1)}
    brier = {C: np.nanmean((m.predict_proba(X[v]) - Y[v]) ** 2) for C, m in fitted.items()}
    C = min(brier, key=brier.get)
    predicted = fitted[C].predict_proba(X)
    folds = GroupKFold(p.inner_folds, shuffle=True, random_state=p.seed)
    for inner, outer in folds.split(train, groups=group[train]):
        model = TargetLogistic(C).fit(X[train[inner]], Y[train[inner]])
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
