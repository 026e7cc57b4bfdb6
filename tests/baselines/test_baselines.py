import numpy as np
import pytest
from random_labels import labels, questions
from sklearn.base import clone

from prefill_router.baselines import BenchmarkAware, Clusters, NearestNeighbours, TrainingAccuracy
from prefill_router.baselines import classifiers as by_target
from prefill_router.baselines.latent import ItemResponse, MatrixFactorisation
from prefill_router.errors import InputError


def inputs(rng, n=80):
    """Each estimator with training inputs of its own kind."""
    X = rng.normal(size=(n, 5)) + 0.2
    return [
        (TrainingAccuracy(), X),
        (BenchmarkAware(), rng.choice(["a", "b", "c"], n)),
        (by_target.LengthOnly(), rng.integers(1, 50, size=(n, 2))),
        (by_target.TfidfLogistic(), questions(rng, n)),
        (NearestNeighbours(7), X),
        (Clusters(4), X),
        (by_target.TargetLogistic(), X),
        (MatrixFactorisation(2), X),
        (ItemResponse(2), X),
        (by_target.TargetTrees(10), X),
    ]


@pytest.fixture(params=range(10))
def case(request, rng):
    """An estimator and its inputs."""
    return inputs(rng)[request.param]


def test_one_sided_and_unlabelled_targets_and_refits(rng, case):
    (model, X), Y = case, labels(rng)
    Y[:, 1], Y[:, 2] = 1, np.nan
    p = model.fit(X, Y).predict_proba(X)
    assert p.shape == (80, 3)
    assert (p[:, 1] > 0.9).all()
    np.testing.assert_allclose(p[:, 2], 0.5)
    np.testing.assert_array_equal(clone(model).fit(X, Y).predict_proba(X), p)


def test_missing_labels_are_not_wrong_answers(rng, case):
    (model, X), Y = case, labels(rng, missing=0.4)
    masked = clone(model).fit(X, Y).predict_proba(X).mean(axis=0)
    np.testing.assert_allclose(masked, np.nanmean(Y, axis=0), atol=0.1)
    counted_wrong = model.fit(X, np.nan_to_num(Y)).predict_proba(X).mean(axis=0)
    assert (counted_wrong < masked - 0.05).all()


def test_labels_of_other_shapes_are_refused(rng, case):
    for Y in (labels(rng, n=79), labels(rng)[:, 0]):
        with pytest.raises(InputError, match=r"expected \(80, K\)"):
            case[0].fit(case[1], Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_row(rng, case, bad):
    model, X = case
    if X.dtype.kind in "fi":
        X = X.astype(float)
        X[[7, 9], 1] = bad
        with pytest.raises(InputError, match="no finite number in row 7"):
            model.fit(X, labels(rng))


def test_constant_features_leave_each_targets_accuracy(rng, case):
    (model, X), Y = case, labels(rng)
    if isinstance(model, NearestNeighbours):
        model = NearestNeighbours(80)  # all queries being equally near, a few are any few
    p = model.fit(X[:1].repeat(80, axis=0), Y).predict_proba(X[:1].repeat(80, axis=0))
    np.testing.assert_allclose(p, p[:1].repeat(80, axis=0))
    np.testing.assert_allclose(p[0], np.nanmean(Y, axis=0), atol=0.1)


# -- averages ---------------------------------------------------------------


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
    X, new, Y = rng.normal(size=(80, 5)), rng.normal(size=(9, 5)), labels(rng, missing=0.8)
    p = NearestNeighbours(k=6).fit(X, Y).predict_proba(new * 100)
    fell_back = 0
    for row, x in zip(p, new, strict=True):
        cosines = [x @ h / np.linalg.norm(x) / np.linalg.norm(h) for h in X]
        near = Y[np.argsort(cosines)[-6:]]
        for k in range(3):
            own = near[~np.isnan(near[:, k]), k]
            fell_back += not len(own)
            np.testing.assert_allclose(row[k], own.mean() if len(own) else np.nanmean(Y[:, k]))
    assert 0 < fell_back < 27
    assert NearestNeighbours(k=99).fit(X, Y).predict_proba(new).shape == (9, 3)


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
    assert Clusters(32).fit(3 * centres[member], Y).accuracy_.shape == (4, 3)  # distinct directions
