"""How routers are fitted in one fold of a study, and how their candidates are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from prefill_router.baselines.text_classifier import TextClassifier
from prefill_router.experiments.fold import Fold
from prefill_router.trunk import SharedTrunkEnsemble

ENSEMBLE = "trunk.safetensors"


@dataclass(frozen=True)
class Fitting(Fold):
    """What a router is fitted in: a fold, and a directory for what it wants to keep.

    `tried` collects how many configurations were compared, each time some were.
    """

    directory: Path
    tried: list[int] = field(default_factory=list)

    def trunk(self, x: np.ndarray, shuffle: bool = False) -> np.ndarray:
        """P(correct) of all N rows by an ensemble of SharedTrunkNets on `x`, which is kept."""
        Y = self.correct
        if shuffle:
            Y, train = Y.copy(), self.split.train
            rng = np.random.default_rng(self.study.parameters.seed)
            Y[train] = Y[train][rng.permutation(len(train))]
        ensemble = self.ensemble(x, Y)
        ensemble.save(self.directory / ENSEMBLE)
        return ensemble.predict_proba(x)

    def ensemble(self, x: np.ndarray, Y: np.ndarray) -> SharedTrunkEnsemble:
        """Train SharedTrunkNets on the training rows of `x` with a label in Y (N, M)."""
        p, train = self.study.parameters, self.split.train
        rows = train[~np.isnan(Y[train]).all(axis=1)]
        device = self.study.training_device
        ensemble = SharedTrunkEnsemble(p.n_seeds, p.keep, random_state=p.seed, device=device)
        return ensemble.fit(x[rows], Y[rows], self.study.labels.group[rows])

    def tuned_by_target(self, candidates: Sequence[BaseEstimator]) -> np.ndarray:
        """P(correct), each target's from its own f_k by the candidate that is best for it."""
        features = self.features_by_target()
        by_target = zip(features, self.correct.T, strict=True)
        return np.hstack([self.tuned(f, candidates, Y=labels[:, None]) for f, labels in by_target])

    def tuned(
        self,
        X: np.ndarray,
        candidates: Sequence[BaseEstimator],
        grouped: bool = False,
        Y: np.ndarray | None = None,
    ) -> np.ndarray:
        """P(correct) by the candidate with the least Brier score on validation rows.

        `grouped` candidates cut an inner part off the training rows, and are told their groups.
        `Y` (N, M) are other labels than those of all targets.
        """
        split, Y = self.split, self.correct if Y is None else Y
        self.tried.append(len(candidates))
        extra = [self.study.labels.group[split.train]] if grouped else []
        fitted = [candidate.fit(X[split.train], Y[split.train], *extra) for candidate in candidates]
        scores = [
            np.nanmean((model.predict_proba(X[split.validation]) - Y[split.validation]) ** 2)
            for model in fitted
        ]
        return fitted[int(np.argmin(scores))].predict_proba(X)

    def text_classifiers(self, learning_rates: Sequence[float]) -> list[TextClassifier]:
        """Classifiers to be fine-tuned from the encoder that is read."""
        p = self.study.parameters
        return [
            TextClassifier(
                self.study.source(self.encoders[0]),
                learning_rate=learning_rate,
                max_tokens=p.max_tokens or None,
                truncation=p.truncation,
                random_state=p.seed,
                device=self.study.training_device,
            )
            for learning_rate in learning_rates
        ]
