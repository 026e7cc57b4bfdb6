"""What a router must beat: estimators that know less, or that use what they know more simply.

Each has ``fit(X, Y)`` and ``predict_proba(X)``, which returns P(correct) of shape (n, K). Y has 1
for a right answer, 0 for a wrong one and NaN where a target was never asked; those say nothing.
A target without any label is given probability one half.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from sklearn import cluster, neighbors
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

from prefill_router.errors import InputError
from prefill_router.features.logistic import fit_logistic, predict_logistic


def masked_accuracy(Y: np.ndarray) -> np.ndarray:
    """Return the share of right answers among the labelled ones, (K,); one half without any."""
    known = (~np.isnan(Y)).sum(axis=0)
    return np.where(known > 0, np.nansum(Y, axis=0) / np.maximum(known, 1), 0.5)


def base_rate(Y: np.ndarray) -> np.ndarray:
    """Return (right + 1) / (labelled + 2) of each target, (K,), which is never 0 or 1."""
    return (np.nansum(Y, axis=0) + 1) / ((~np.isnan(Y)).sum(axis=0) + 2)


def smoothed_accuracy(
    Y: np.ndarray, codes: np.ndarray, n_codes: int, strength: float
) -> np.ndarray:
    """Accuracy of each target within each class of queries, drawn towards its accuracy overall.

    Parameters
    ----------
    Y : ndarray of shape (N, K)
    codes : ndarray of int, shape (N,)
        Each query's class.
    n_codes : int
    strength : float
        Labels that the overall accuracy counts as.

    Returns
    -------
    ndarray of shape (n_codes, K)
    """
    right, known = np.zeros((2, n_codes, Y.shape[1]))
    np.add.at(right, codes, np.nan_to_num(Y))
    np.add.at(known, codes, ~np.isnan(Y))
    return (right + strength * masked_accuracy(Y)) / (known + strength)


def label_matrix(X, Y: np.ndarray) -> np.ndarray:
    """Return Y in float64, (N, K), if it is a matrix with a row for each of X.

    Raises
    ------
    InputError
        If it is not, or has no rows.
    """
    Y = np.asarray(Y, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != len(X) or len(Y) == 0:
        raise InputError(f"Y has shape {Y.shape}; expected ({len(X)}, K), one row a query.")
    return Y


class TrainingAccuracy(BaseEstimator):
    """Each target's accuracy on the training rows: always routes to the best single target.

    Attributes
    ----------
    accuracy_ : ndarray of shape (K,)
    """

    def fit(self, X, Y: np.ndarray) -> TrainingAccuracy:
        """Count right answers; of `X` only the length matters."""
        self.accuracy_ = masked_accuracy(label_matrix(X, Y))
        return self

    def predict_proba(self, X) -> np.ndarray:
        """Return the same row for each of `X`."""
        return np.tile(self.accuracy_, (len(X), 1))


class BenchmarkAware(BaseEstimator):
    """Each target's accuracy on the query's benchmark, as if the benchmark were known.

    Parameters
    ----------
    strength : float, default 1.0
        Labels that the overall accuracy counts as; an unknown benchmark gets it alone.

    Attributes
    ----------
    benchmarks_ : ndarray of shape (B,)
        Sorted names.
    accuracy_ : ndarray of shape (B + 1, K)
        By benchmark; the last row is the overall accuracy.
    """

    def __init__(self, strength: float = 1.0):
        self.strength = strength

    def fit(self, X: np.ndarray, Y: np.ndarray) -> BenchmarkAware:
        """Count right answers in each benchmark; `X` holds the queries' benchmark names."""
        Y = label_matrix(X, Y)
        self.benchmarks_, codes = np.unique(np.asarray(X, dtype=str), return_inverse=True)
        by_benchmark = smoothed_accuracy(Y, codes, len(self.benchmarks_), self.strength)
        self.accuracy_ = np.vstack([by_benchmark, masked_accuracy(Y)])
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Look the benchmark names `X` up."""
        X = np.asarray(X, dtype=str)
        places = np.searchsorted(self.benchmarks_, X).clip(max=len(self.benchmarks_) - 1)
        known = self.benchmarks_[places] == X
        return self.accuracy_[np.where(known, places, -1)]


class LengthOnly(BaseEstimator):
    """Logistic regression on the query's lengths and their logarithms.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty.

    Attributes
    ----------
    scaler_ : StandardScaler
    coef_, intercept_ : ndarrays of shapes (K, 2 L) and (K,)
    """

    def __init__(self, C: float = 1.0):
        self.C = C

    def fit(self, X: np.ndarray, Y: np.ndarray) -> LengthOnly:
        """Fit to lengths `X` (N, L), such as prompt tokens and characters."""
        Y = label_matrix(X, Y)
        self.scaler_ = StandardScaler().fit(self._columns(X))
        self.coef_, self.intercept_ = fit_logistic(
            self.scaler_.transform(self._columns(X)), Y, self.C
        )
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from lengths `X` (n, L)."""
        columns = self.scaler_.transform(self._columns(X))
        return predict_logistic(columns, self.coef_, self.intercept_)

    @staticmethod
    def _columns(X: np.ndarray) -> np.ndarray:
        X = np.asarray(X, dtype=np.float64)
        return np.hstack([X, np.log1p(X)])


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
        Y = label_matrix(X, Y)
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


class NearestNeighbours(BaseEstimator):
    """Accuracy of each target on the nearest training queries by cosine.

    Parameters
    ----------
    k : int, default 50
        Neighbours; at most as many as there are training rows.

    Attributes
    ----------
    index_ : sklearn.neighbors.NearestNeighbors
    labels_ : ndarray of shape (N, K)
    accuracy_ : ndarray of shape (K,)
        Overall, for targets that none of the neighbours has a label for.
    """

    def __init__(self, k: int = 50):
        self.k = k

    def fit(self, X: np.ndarray, Y: np.ndarray) -> NearestNeighbours:
        """Remember embeddings `X` (N, D) and labels."""
        self.labels_ = label_matrix(X, Y)
        self.accuracy_ = masked_accuracy(self.labels_)
        n_neighbors = min(self.k, len(X))
        self.index_ = neighbors.NearestNeighbors(n_neighbors=n_neighbors, metric="cosine").fit(X)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Average over the neighbours of embeddings `X` (n, D) that have a label."""
        near = self.labels_[self.index_.kneighbors(X, return_distance=False)]
        known = (~np.isnan(near)).sum(axis=1)
        mean = np.nansum(near, axis=1) / np.maximum(known, 1)
        return np.where(known > 0, mean, self.accuracy_)


class Clusters(BaseEstimator):
    """Accuracy of each target on the k-means cluster of the query's direction.

    Parameters
    ----------
    n_clusters : int, default 32
        At most as many as there are training rows.
    strength : float, default 1.0
        Labels that the overall accuracy counts as in each cluster.
    random_state : int, default 0

    Attributes
    ----------
    kmeans_ : sklearn.cluster.KMeans
        On rows of unit length.
    accuracy_ : ndarray of shape (n_clusters, K)
    """

    def __init__(self, n_clusters: int = 32, strength: float = 1.0, random_state: int = 0):
        self.n_clusters = n_clusters
        self.strength = strength
        self.random_state = random_state

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Clusters:
        """Cluster embeddings `X` (N, D) and count right answers in each cluster."""
        Y, directions = label_matrix(X, Y), normalize(X)
        n_clusters = min(self.n_clusters, len(np.unique(directions, axis=0)))
        self.kmeans_ = cluster.KMeans(n_clusters, n_init=3, random_state=self.random_state)
        codes = self.kmeans_.fit_predict(directions)
        self.accuracy_ = smoothed_accuracy(Y, codes, n_clusters, self.strength)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Look up the clusters that embeddings `X` (n, D) fall in."""
        return self.accuracy_[self.kmeans_.predict(normalize(X))]


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
        """Fit to features `X` (N, D), all targets on the same."""
        self.coef_, self.intercept_ = fit_logistic(X, label_matrix(X, Y), self.C)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Predict from features `X` (n, D)."""
        return predict_logistic(X, self.coef_, self.intercept_)
