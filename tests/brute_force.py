"""What the library computes at once, computed by loops."""

import numpy as np


def fisher_by_loops(X, y, standardise=True):
    """Return J of one target, whose labels may be missing."""
    known = ~np.isnan(y)
    X, y = X[known], y[known]
    if standardise:
        X = X[:, X.std(axis=0) > 0]
        X = (X - X.mean(axis=0)) / X.std(axis=0)
    groups = [X[y == value] for value in (0, 1)]
    between = np.sum((groups[1].mean(axis=0) - groups[0].mean(axis=0)) ** 2)
    within = sum(np.trace(np.atleast_2d(np.cov(g, rowvar=False, ddof=0))) for g in groups)
    return between / within
