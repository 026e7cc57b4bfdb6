import numpy as np
import pytest
from random_labels import labels, questions
from sklearn.base import clone

from prefill_router.baselines import (
    BenchmarkAware,
    Clusters,
    NearestNeighbours,
    TrainingAccuracy,
)
from prefill_router.baselines.classifiers import (
    LengthOnly,
    TargetLogistic,
    TargetTrees,
    TfidfLogistic,
)
from prefill_router.baselines.latent import ItemResponse, MatrixFactorisation
from prefill_router.errors import InputError


def inputs(rng, n=80):
    """Each estimator with training inputs of its own kind."""
    X = rng.normal(size=(n, 5)) + 0.2
    lengths = rng.integers(1, 50, size=(n, 2))
    return [
        (TrainingAccuracy(), X),
        (BenchmarkAware(), rng.choice(["a", "b", "c"], n)),
        (LengthOnly(), lengths),
        (TfidfLogistic(), questions(rng, n)),
        (NearestNeighbours(7), X),
        (Clusters(4), X),
        (TargetLogistic(), X),
        (MatrixFactorisation(2), X),
        (ItemResponse(2), X),
        (TargetTrees(10), X),
    ]


MODELS = [model for model, _ in inputs(np.random.default_rng(0))]


@pytest.mark.parametrize("place", range(len(MODELS)))
def test_one_sided_and_unlabelled_targets_and_refits(rng, place):
    model, X = inputs(rng)[place]
    Y = labels(rng)
    Y[:, 1], Y[:, 2] = 1, np.nan
    p = model.fit(X, Y).predict_proba(X)
    assert p.shape == (80, 3)
    assert (p[:, 1] > 0.9).all()
    np.testing.assert_allclose(p[:, 2], 0.5)
    np.testing.assert_array_equal(clone(model).fit(X, Y).predict_proba(X), p)


@pytest.mark.parametrize("place", range(len(MODELS)))
def test_missing_labels_are_not_wrong_answers(rng, place):
    model, X = inputs(rng)[place]
    Y = labels(rng, missing=0.4)
    masked = clone(model).fit(X, Y).predict_proba(X)
    counted_wrong = clone(model).fit(X, np.nan_to_num(Y)).predict_proba(X)
    np.testing.assert_allclose(masked.mean(axis=0), np.nanmean(Y, axis=0), atol=0.1)
    assert (counted_wrong.mean(axis=0) < masked.mean(axis=0) - 0.05).all()


@pytest.mark.parametrize("place", range(len(MODELS)))
def test_labels_of_other_shapes_are_refused(rng, place):
    model, X = inputs(rng)[place]
    for Y in (labels(rng, n=79), labels(rng)[:, 0]):
        with pytest.raises(InputError, match=r"expected \(80, K\)"):
            model.fit(X, Y)


@pytest.mark.parametrize("n_targets", [2, 50])
@pytest.mark.parametrize("place", range(len(MODELS)))
def test_two_and_fifty_targets_and_fifty_queries(rng, place, n_targets):
    model, X = inputs(rng, 50)[place]
    p = model.fit(X, labels(rng, 50, n_targets)).predict_proba(X)
    assert p.shape == (50, n_targets)
    assert ((p >= 0) & (p <= 1)).all()


@pytest.mark.parametrize(
    "place",  # all queries being equally near, a few neighbours are any few
    [i for i, model in enumerate(MODELS) if not isinstance(model, NearestNeighbours)],
)
def test_constant_features_leave_each_targets_accuracy(rng, place):
    model, X = inputs(rng)[place]
    Y, X = labels(rng), X[:1].repeat(80, axis=0)
    p = model.fit(X, Y).predict_proba(X)
    np.testing.assert_allclose(p, p[:1].repeat(80, axis=0))
    np.testing.assert_allclose(p[0], np.nanmean(Y, axis=0), atol=0.1)
