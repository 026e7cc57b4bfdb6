import numpy as np
from random_labels import labels

from prefill_router.baselines import (
    BenchmarkAware,
    Clusters,
    NearestNeighbours,
    TrainingAccuracy,
)


def test_training_accuracy_leaves_missing_labels_out():
    Y = np.array([[1, 0], [1, np.nan], [0, np.nan], [np.nan, 1]])
    p = TrainingAccuracy().fit(range(4), Y).predict_proba(range(2))
    np.testing.assert_allclose(p, [[2 / 3, 1 / 2]] * 2)


def test_benchmark_aware_equals_a_loop(rng):
    names, Y = rng.choice(["arc", "gsm", "law"], 80), labels(rng)
    p = BenchmarkAware(strength=2).fit(names, Y).predict_proba(np.array(["law", "new", "arc", "a"]))
    overall = np.nanmean(Y, axis=0)
    for row, name in zip(p, ["law", None, "arc", None], strict=True):
        for k in range(3):
            own = [y for y, b in zip(Y[:, k], names, strict=True) if b == name and y == y]
            expected = (sum(own) + 2 * overall[k]) / (len(own) + 2)
            np.testing.assert_allclose(row[k], expected)


def test_nearest_neighbours_equal_a_loop_over_cosines(rng):
    X, new, Y = rng.normal(size=(80, 5)), rng.normal(size=(9, 5)), labels(rng, missing=0.5)
    p = NearestNeighbours(k=6).fit(X, Y).predict_proba(new * 100)
    for row, x in zip(p, new, strict=True):
        cosines = [x @ h / np.linalg.norm(x) / np.linalg.norm(h) for h in X]
        near = Y[np.argsort(cosines)[-6:]]
        for k in range(3):
            own = near[~np.isnan(near[:, k]), k]
            np.testing.assert_allclose(row[k], own.mean() if len(own) else np.nanmean(Y[:, k]))


def test_nearest_neighbours_fall_back_where_none_is_labelled():
    X = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    Y = np.array([[np.nan], [np.nan], [1.0], [0.0]])
    p = NearestNeighbours(k=2).fit(X, Y).predict_proba(np.array([[1.0, 0.05]]))
    np.testing.assert_allclose(p, [[0.5]])
    assert NearestNeighbours(k=50).fit(X, Y).predict_proba(X).shape == (4, 1)


def test_clusters_equal_a_loop_over_members(rng):
    centres = np.eye(4)
    member = rng.integers(0, 4, 80)
    X = (centres[member] + 0.01 * rng.normal(size=(80, 4))) * rng.uniform(1, 9, size=(80, 1))
    Y = labels(rng)
    p = Clusters(4, strength=3).fit(X, Y).predict_proba(centres)
    for c in range(4):
        for k in range(3):
            own = Y[member == c, k]
            own = own[~np.isnan(own)]
            expected = (own.sum() + 3 * np.nanmean(Y[:, k])) / (len(own) + 3)
            np.testing.assert_allclose(p[c, k], expected)


def test_clusters_are_no_more_than_the_distinct_directions(rng):
    X = np.repeat(np.eye(3), 5, axis=0) * rng.uniform(1, 2, size=(15, 1))
    assert Clusters(32).fit(X, labels(rng, 15)).accuracy_.shape == (3, 3)
