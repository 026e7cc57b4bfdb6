"""Gradient-boosted trees on the features the shared trunk reads, one model a target."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier

from prefill_router.baselines import base_rate
from prefill_router.labels import label_matrix


class TargetTrees(BaseEstimator):
    """One ensemble of gradient-boosted trees a target.

    Parameters
    ----------
    n_trees : int, default 100
        Trees of each target, each correcting the sum of those before it.
    max_leaf_nodes : int, default 8
        Leaves of a tree.
    learning_rate : float, default 0.1
        By which each tree's correction is shrunk.
    random_state : int, default 0

    Attributes
    ----------
    models_ : list of HistGradientBoostingClassifier or None, length K
        None for a target whose labels are all alike.
    base_rate_ : ndarray of shape (K,)
        What such a target is given: (right + 1) / (labelled + 2), one half without any label.

    Notes
    -----
    There is no early stopping: scikit-learn would cut its validation rows off at random, through
    groups of queries that belong together.

    References
    ----------
    Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics,
    2001; in scikit-learn's histogram form.
    """

    def __init__(
        self,
        n_trees: int = 100,
        max_leaf_nodes: int = 8,
        learning_rate: float = 0.1,
        random_state: int = 0,
    ):
        self.n_trees = n_trees
        self.max_leaf_nodes = max_leaf_nodes
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: np.ndarray, Y: np.ndarray) -> TargetTrees:
        """Fit to features `X` (N, D), each target on the rows labelled for it."""
        Y = label_matrix(Y, len(X))
        self.base_rate_ = base_rate(Y)
        self.models_ = [self._one(X, labels) for labels in Y.T]
        return self

    def _one(self, X: np.ndarray, labels: np.ndarray) -> HistGradientBoostingClassifier | None:
        known = ~np.isnan(labels)
        if len(np.unique(labels[known])) < 2:
            return None
        model = HistGradientBoostingClassifier(
            max_iter=self.n_trees,
            max_leaf_nodes=self.max_leaf_nodes,
            learning_rate=self.learning_rate,
            early_stopping=False,
            random_state=self.random_state,
        )
        return model.fit(X[known], labels[known])

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from features `X` (n, D)."""
        return np.column_stack(
            [
                np.full(len(X), rate) if model is None else model.predict_proba(X)[:, 1]
                for model, rate in zip(self.models_, self.base_rate_, strict=True)
            ]
        )
