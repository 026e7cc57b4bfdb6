"""Accuracies of each target, over all training queries, a benchmark, a cluster or neighbours."""

from __future__ import annotations

import numpy as np
from sklearn import cluster, neighbors
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from prefill_router.baselines import masked_accuracy, smoothed_accuracy
from prefill_router.labels import label_matrix


class TrainingAccuracy(BaseEstimator):
    """Each target's accuracy on the training rows: always routes to the best single target.

    Attributes
    ----------
    accuracy_ : ndarray of shape (K,)
    """

    def fit(self, X, Y: np.ndarray) -> TrainingAccuracy:
        """Count right answers; of `X` only the length matters."""
        self.accuracy_ = masked_accuracy(label_matrix(Y, len(X)))
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
        Y = label_matrix(Y, len(X))
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
        self.labels_ = label_matrix(Y, len(X))
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
        Y, directions = label_matrix(Y, len(X)), normalize(X)
        n_clusters = min(self.n_clusters, len(np.unique(directions, axis=0)))
        self.kmeans_ = cluster.KMeans(n_clusters, n_init=3, random_state=self.random_state)
        codes = self.kmeans_.fit_predict(directions)
        self.accuracy_ = smoothed_accuracy(Y, codes, n_clusters, self.strength)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Look up the clusters that embeddings `X` (n, D) fall in."""
        return self.accuracy_[self.kmeans_.predict(normalize(X))]
