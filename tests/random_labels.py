"""Labels and questions drawn at random, for tests of estimators."""

import numpy as np

from prefill_router.labels import Labels


def labels(rng, n=80, k=3, missing=0.3):
    """Return right and wrong answers, some missing, (n, k)."""
    Y = rng.integers(0, 2, size=(n, k)).astype(float)
    return np.where(rng.random((n, k)) < missing, np.nan, Y)


def questions(rng, n=80):
    """Return n texts of six words, digits and symbols."""
    words = ["sum", "of", "7", "+", "3", "is", "x", ">", "Y", "sort", "the", "a", "b", "c"]
    return np.array([" ".join(rng.choice(words, 6)) for _ in range(n)], dtype=object)


def labels_of_both_kinds(rng, n, k, missing=0.2):
    """Return labels of which the first four rows are known: two wrong, two right."""
    Y = (rng.random((n, k)) < 0.5).astype(float)
    Y[:2], Y[2:4] = 0, 1
    return np.where((rng.random((n, k)) < missing) & (np.arange(n)[:, None] > 3), np.nan, Y)


def labels_of(n=None, **fields):
    """Return `Labels` of n queries and the targets m1, m2...; `fields` replace what is made up."""
    shape = next((np.shape(a) for a in fields.values() if np.ndim(a) == 2), (n, 2))
    n = shape[0] if n is None else n
    made_up = {
        "query_id": np.array([f"q{i}" for i in range(n)]),
        "question": np.array([f"{i}?" for i in range(n)], dtype=object),
        "benchmark": np.full(n, "a"),
        "targets": tuple(f"m{k + 1}" for k in range(shape[1])),
        "correct": np.ones((n, shape[1])),
        "output_tokens": np.full((n, shape[1]), np.nan),
        "cost_usd": np.full((n, shape[1]), np.nan),
        "group": np.arange(n),
    }
    return Labels(**made_up | fields)
