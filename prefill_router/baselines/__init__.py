"""What a router must beat: estimators that know less, or that use what they know more simply.

Each has ``fit(X, Y)`` and ``predict_proba(X)``, which returns P(correct) of shape (n, K). Y has 1
for a right answer, 0 for a wrong one and NaN where a target was never asked; those say nothing.
A target without any label is given probability one half. ``fit`` raises InputError if Y is not a
matrix with a row for each of X.

Here are the averages: each target's accuracy over all training queries, a benchmark, a cluster or
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn import cluster, neighbors
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from prefill_router.labels import label_matrix
from prefill_router.metrics import macro

estimator = dataclass(eq=False, repr=False)
"""Class decorator: the fields of a `BaseEstimator` are its hyper-parameters."""


def masked_accuracy(Y: np.ndarray) -> np.ndarray:
    """Return the share of right answers among the labelled ones, (K,); one half without any."""
    return np.nan_to_num(macro(Y.T), nan=0.5)


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


class TrainingAccuracy(BaseEstimator):
    """Each target's accuracy on the training rows: always routes to the best single target.

    Attributes
    ----------
    accuracy_ : ndarray of shape (K,)
    """

    def fit(self, X, Y: np.ndarray) -> TrainingAccuracy:
        """Count right answers; of `X` only the length matters."""
        self.accuracy_ = masked_accuracy(label_matrix(Y, X))
        return self

    def predict_proba(self, X) -> np.ndarray:
        """Return the same row for each of `X`."""
        return np.tile(self.accuracy_, (len(X), 1))


@estimator
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

    strength: float = 1.0

    def fit(self, X: np.ndarray, Y: np.ndarray) -> BenchmarkAware:
        """Count right answers in each benchmark; `X` holds the queries' benchmark names."""
        Y = label_matrix(Y, X)
        self.benchmarks_, codes = np.unique(np.asarray(X, dtype=str), return_inverse=True)
        by_benchmark = smoothed_accuracy(Y, codes, len(self.benchmarks_), self.strength)
        self.accuracy_ = np.vstack([by_benchmark, masked_accuracy(Y)])
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Look the benchmark names `X` up."""
        return self.accuracy_[pd.Index(self.benchmarks_).get_indexer(np.asarray(X, dtype=str))]


@estimator
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

    k: int = 50

    def fit(self, X: np.ndarray, Y: np.ndarray) -> NearestNeighbours:
        """Remember embeddings `X` (N, D) and labels."""
        self.labels_ = label_matrix(Y, X)
        self.accuracy_ = masked_accuracy(self.labels_)
        n_neighbors = min(self.k, len(X))
        self.index_ = neighbors.NearestNeighbors(n_neighbors=n_neighbors, metric="cosine").fit(X)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Average over the neighbours of embeddings `X` (n, D) that have a label."""
        near = self.labels_[self.index_.kneighbors(X, return_distance=False)]
        mean = macro(np.moveaxis(near, 1, 2))
        return np.where(np.isnan(mean), self.accuracy_, mean)


@estimator
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

    n_clusters: int = 32
    strength: float = 1.0
    random_state: int = 0

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Clusters:
        """Cluster embeddings `X` (N, D) and count right answers in each cluster."""
        Y, directions = label_matrix(Y, X), normalize(X)
        n_clusters = min(self.n_clusters, len(np.unique(directions, axis=0)))
        self.kmeans_ = cluster.KMeans(n_clusters, n_init=3, random_state=self.random_state)
        codes = self.kmeans_.fit_predict(directions)
        self.accuracy_ = smoothed_accuracy(Y, codes, n_clusters, self.strength)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Look up the clusters that embeddings `X` (n, D) fall in."""
        return self.accuracy_[self.kmeans_.predict(normalize(X))]
