"""Heads of many targets, each on the rows labelled for it: logistic and ridge regressions, trees.

The ridge regression splits a label into its query's mean over targets, its easiness, and what is
left, the target's deviation: y_ik = m_i + d_ik. Routing depends on deviations alone, and they are
much the fainter signal, so that a penalty that suits m lets d overfit. Both are regressed on the
same features by least squares, each with its own penalty; one decomposition serves every penalty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from prefill_router.baselines import base_rate, estimator, masked_accuracy
from prefill_router.errors import InputError
from prefill_router.features.logistic import fit_logistic, predict_logistic
from prefill_router.labels import label_matrix
from prefill_router.metrics import macro


class _OneEach(BaseEstimator):
    """A classifier for each target, on the rows labelled for it."""

    def _fit(self, classifier: ClassifierMixin, X, Y: np.ndarray):
        self.base_rate_, self.models_ = base_rate(Y), []
        for y in Y.T:
            rows = np.flatnonzero(~np.isnan(y))
            alike = len(np.unique(y[rows])) < 2
            self.models_.append(None if alike else clone(classifier).fit(X[rows], y[rows]))
        return self

    def _predict(self, X) -> np.ndarray:
        p = np.tile(self.base_rate_, (X.shape[0], 1))
        for k, model in enumerate(self.models_):
            if model is not None:
                p[:, k] = model.predict_proba(X)[:, 1]
        return p


@estimator
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

    C: float = 1.0

    def fit(self, X: np.ndarray, Y: np.ndarray) -> LengthOnly:
        """Fit to lengths `X` (N, L), such as prompt tokens and characters.

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, or `C` is not positive.
        """
        columns = FunctionTransformer(lambda X: np.hstack([X, np.log1p(X)]))
        self.model_ = make_pipeline(columns, StandardScaler(), TargetLogistic(self.C))
        X = np.asarray(X, dtype=np.float64)
        self.model_.fit(X, label_matrix(Y, X))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from lengths `X` (n, L)."""
        return self.model_.predict_proba(np.asarray(X, dtype=np.float64))


@estimator
class TfidfLogistic(_OneEach):
    """Logistic regression on the TF-IDF of words and pairs of words.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty.

    Attributes
    ----------
    vectorizer_ : TfidfVectorizer
        Every digit string, letter and symbol counts as a word: in mathematics they matter.
    models_ : list of LogisticRegression or None, length K
        None for a target whose labels are all alike.
    base_rate_ : ndarray of shape (K,)
        What such a target is given: (right + 1) / (labelled + 2), one half without any label.
    """

    C: float = 1.0

    def fit(self, X: np.ndarray, Y: np.ndarray) -> TfidfLogistic:
        """Fit to questions `X`, strings."""
        Y = label_matrix(Y, X)
        self.vectorizer_ = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"
        )
        words = self.vectorizer_.fit_transform(X)
        return self._fit(LogisticRegression(C=self.C, max_iter=1000), words, Y)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from questions `X`, strings."""
        return self._predict(self.vectorizer_.transform(X))


@estimator
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

    C: float = 1.0

    def fit(self, X: np.ndarray, Y: np.ndarray) -> TargetLogistic:
        """Fit to features `X` (N, D), all targets on the same.

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, or `C` is not positive.
        """
        self.coef_, self.intercept_ = fit_logistic(X, label_matrix(Y, X), self.C)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from features `X` (n, D)."""
        return predict_logistic(X, self.coef_, self.intercept_)


@estimator
class TargetTrees(_OneEach):
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

    n_trees: int = 100
    max_leaf_nodes: int = 8
    learning_rate: float = 0.1
    random_state: int = 0

    def fit(self, X: np.ndarray, Y: np.ndarray) -> TargetTrees:
        """Fit to features `X` (N, D), each target on the rows labelled for it."""
        trees = HistGradientBoostingClassifier(
            max_iter=self.n_trees,
            max_leaf_nodes=self.max_leaf_nodes,
            learning_rate=self.learning_rate,
            early_stopping=False,
            random_state=self.random_state,
        )
        return self._fit(trees, X, label_matrix(Y, X))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from features `X` (n, D)."""
        return self._predict(X)


def completed(Y: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Fill missing labels by what their target and their query are like, on their own.

    Parameters
    ----------
    Y : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    accuracy : ndarray of shape (K,)
        Of each target, on training rows.

    Returns
    -------
    ndarray of shape (N, K)
        A missing label becomes the target's accuracy plus the mean, over the query's labels, of
        label minus accuracy: of such a query it deviates as it does on average. A query without
        any label gets the accuracies.
    """
    shift = np.nan_to_num(macro(Y - accuracy))
    return np.where(np.isnan(Y), accuracy + shift[:, None], Y)


@estimator
class RidgePath(BaseEstimator):
    """Ridge regressions with every penalty of a list, from one decomposition.

    Parameters
    ----------
    penalties : sequence of float
        Penalty on the squared weights, as a multiple of the features' mean square times N. The
        features are centred and the intercept is not penalised.

    Attributes
    ----------
    x_mean_, y_mean_ : ndarrays of shapes (D,) and (M,)
        Means of the training rows.
    coef_ : ndarray of shape (P, D, M)
        By penalty.
    """

    penalties: Sequence[float]

    def fit(self, X: np.ndarray, Y: np.ndarray) -> RidgePath:
        """Fit to features `X` (N, D) and values `Y` (N, M).

        Raises
        ------
        InputError
            If `Y` is not a matrix with a row for each of `X`, or a penalty is not positive.
        """
        X, Y = np.asarray(X, dtype=np.float64), label_matrix(Y, X)
        if not np.min(self.penalties) > 0:
            raise InputError(f"penalties {self.penalties} must all be positive.")
        self.x_mean_, self.y_mean_ = X.mean(axis=0), Y.mean(axis=0)
        x, y = X - self.x_mean_, Y - self.y_mean_
        scatter = x.T @ x
        unit = np.trace(scatter) / len(scatter)
        values, vectors = linalg.eigh(scatter, overwrite_a=True)
        projected = vectors.T @ (x.T @ y)
        floor = np.finfo(float).tiny  # no feature varies: all weights are then 0
        damped = [np.maximum(values, 0) + penalty * unit + floor for penalty in self.penalties]
        self.coef_ = np.stack([vectors @ (projected / values[:, None]) for values in damped])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return values (P, n, M) of features `X` (n, D), by penalty."""
        return (np.asarray(X, dtype=np.float64) - self.x_mean_) @ self.coef_ + self.y_mean_


def split_labels(Y: np.ndarray) -> np.ndarray:
    """Return each query's mean label and the targets' deviations from it, (N, 1 + K)."""
    filled = completed(Y, masked_accuracy(Y))
    mean = filled.mean(axis=1, keepdims=True)
    return np.hstack([mean, filled - mean])


def join_parts(mean: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return P(correct), (N, K), of predicted means (N,) and deviations (N, K).

    Where a sum leaves [0, 1] its whole row is moved back, so that differences between targets stay;
    rows that span more than 1 are cut.
    """
    p = mean[:, None] + deviations
    p -= np.maximum(p.max(axis=1, keepdims=True) - 1, 0)
    p -= np.minimum(p.min(axis=1, keepdims=True), 0)
    return p.clip(0, 1)
