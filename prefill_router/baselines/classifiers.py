"""Classifiers of scikit-learn's kind, one per target: logistic regressions and boosted trees."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from prefill_router.baselines import base_rate
from prefill_router.features.logistic import fit_logistic, predict_logistic
from prefill_router.labels import label_matrix


class LengthOnly(BaseEstimator):
    """Logistic regression on the query's lengths and their logarithms.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty.

    Attributes
    ----------
    model_ : sklearn.pipeline.Pipeline
        Ends in a `TargetLogistic`.
    """

    def __init__(self, C: float = 1.0):
        self.C = C

    def fit(self, X: np.ndarray, Y: np.ndarray) -> LengthOnly:
        """Fit to lengths `X` (N, L), such as prompt tokens and characters.

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, or `C` is not positive.
        """
        columns = FunctionTransformer(lambda X: np.hstack([X, np.log1p(X)]))
        self.model_ = make_pipeline(columns, StandardScaler(), TargetLogistic(self.C))
        self.model_.fit(np.asarray(X, dtype=np.float64), Y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from lengths `X` (n, L)."""
        return self.model_.predict_proba(np.asarray(X, dtype=np.float64))


class TfidfLogistic(BaseEstimator):
    """Logistic regression on the TF-IDF of words and pairs of words.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty.

    Attributes
    ----------
    vectorizer_ : TfidfVectorizer
        Every digit string, letter and symbol counts as a word: in mathematics they matter.
    coef_, intercept_ : ndarrays of shapes (K, V) and (K,)
        A target whose labels are all alike has an intercept alone, its smoothed base rate.
    """

    def __init__(self, C: float = 1.0):
        self.C = C

    def fit(self, X: np.ndarray, Y: np.ndarray) -> TfidfLogistic:
        """Fit to questions `X`, strings."""
        Y = label_matrix(Y, len(X))
        self.vectorizer_ = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"
        )
        counts = self.vectorizer_.fit_transform(X)
        self.coef_ = np.zeros((Y.shape[1], counts.shape[1]))
        self.intercept_ = logit(base_rate(Y))
        for k, labels in enumerate(Y.T):
            known = np.flatnonzero(~np.isnan(labels))
            if len(np.unique(labels[known])) == 2:
                model = LogisticRegression(C=self.C, max_iter=1000)
                model.fit(counts[known], labels[known])
                self.coef_[k], self.intercept_[k] = model.coef_[0], model.intercept_[0]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from questions `X`, strings."""
        return expit(self.vectorizer_.transform(X) @ self.coef_.T + self.intercept_)


class TargetLogistic(BaseEstimator):
    """One logistic regression a target on the features the shared trunk reads.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty.

    Attributes
    ----------
    coef_, intercept_ : ndarrays of shapes (K, D) and (K,)
    """

    def __init__(self, C: float = 1.0):
        self.C = C

    def fit(self, X: np.ndarray, Y: np.ndarray) -> TargetLogistic:
        """Fit to features `X` (N, D), all targets on the same.

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, or `C` is not positive.
        """
        self.coef_, self.intercept_ = fit_logistic(X, label_matrix(Y, len(X)), self.C)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from features `X` (n, D)."""
        return predict_logistic(X, self.coef_, self.intercept_)


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
