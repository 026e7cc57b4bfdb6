from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.experiments.label_noise import (
    AGREEMENT,
    CEILING,
    LOWER,
    RELIABILITY,
    REPRODUCIBLE,
    SINGLE_DRAW,
    UPPER,
    evaluate_ceiling,
    evaluate_noise,
    label_noise,
    reproducible,
)

TARGETS = ("a", "b", "c")


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, size=(400, 3)) * [0.9, 1, 0.8]
    return chance, rng.random((10, 400, 3)) < chance


def estimate_of(found, metric, router="", **where):
    return one(found, metric=metric, router=router, **where).estimate


def test_the_reproducible_oracle_is_that_of_every_split_of_the_draws(drawn):
    right = drawn[1][:4, :50]
    priority = np.array([0.2, 0.1, 0.3])
    for m in (1, 2, 3):
        expected = np.zeros(50)
        for i in range(50):
            for seen in combinations(range(4), m):
                rest = [d for d in range(4) if d not in seen]
                counts = right[list(seen), i].sum(axis=0)
                k = max(range(3), key=lambda k: (counts[k], priority[k]))
                expected[i] += right[rest, i, k].mean()
        np.testing.assert_allclose(
            reproducible(right, m, priority), expected / len(list(combinations(range(4), m)))
        )


def noise(right, best, choices=None, targets=TARGETS):
    at = Evaluation(right[0], best_single=best, targets=targets, n_resamples=200)
    return evaluate_noise(at, right, choices or {}, np.arange(right.shape[2]))


def test_an_oracle_of_pure_luck_has_headroom_that_is_not_real():
    right = np.random.default_rng(1).random((10, 3000, 4)) < 0.5
    at = np.zeros(3000, dtype=int)
    found = noise(right, at, {"r": at}, "abcd")
    single = estimate_of(found, "headroom", SINGLE_DRAW)
    assert single == pytest.approx(1 - 0.5**4 - 0.5, abs=0.01)
    assert abs(estimate_of(found, "headroom", REPRODUCIBLE, x=5)) < 0.01
    assert abs(estimate_of(found, "real share", REPRODUCIBLE, x=5)) < 0.03


def test_where_answers_never_vary_all_headroom_is_real():
    answers = np.random.default_rng(2).random((500, 3)) < 0.6
    right = np.repeat(answers[None], 10, axis=0)
    best, good = np.zeros(500, dtype=int), answers.argmax(axis=1)
    found = noise(right, best, {"perfect": good})
    shares = select(found, metric="real share")
    assert shares["x"].tolist() == list(range(1, 10))
    assert shares["estimate"].tolist() == pytest.approx([1] * 9)
    for against in ("single draw", "reproducible"):
        row = one(found, metric=f"gap closed, {against}", router="perfect")
        assert (row.estimate, row.lower) == pytest.approx((1, 1))
    assert (select(found, metric=[AGREEMENT, RELIABILITY], target=None)["estimate"] == 1).all()


def test_more_draws_seen_come_nearer_to_who_knows_every_chance(drawn):
    chance, right = drawn
    at = np.ones(400, dtype=int)
    found = noise(right, at, {"knows": chance.argmax(axis=1)})
    rooms = select(found, metric="headroom", router=REPRODUCIBLE)["estimate"].to_numpy()
    assert (np.diff(rooms) > -0.003).all() and rooms[-1] > rooms[0]
    known = chance.max(axis=1).mean() - chance[:, 1].mean()
    assert rooms[-1] == pytest.approx(known, abs=0.03)
    assert estimate_of(found, "headroom", SINGLE_DRAW) > known + 0.03
    assert estimate_of(found, "gap closed, reproducible", "knows") == pytest.approx(
        estimate_of(found, "gap closed, single draw", "knows")
        / estimate_of(found, "real share", REPRODUCIBLE, x=5)
    )


def test_reliability_is_the_share_of_variance_between_queries(drawn):
    chance, right = drawn
    at = np.zeros(400, dtype=int)
    found = noise(right, at)
    for k, target in enumerate("abc"):
        p = chance[:, k]
        row = one(found, metric=RELIABILITY, target=target)
        assert row.lower < p.var() / (p.mean() * (1 - p.mean())) < row.upper
        agree = one(found, metric=AGREEMENT, target=target)
        assert agree.lower < (p**2 + (1 - p) ** 2).mean() < agree.upper


def test_the_ceiling_is_between_its_bounds_and_no_router_is_above_it(drawn):
    chance, right = drawn
    noisy = chance + np.random.default_rng(3).normal(0, 0.2, chance.shape)
    p = {"knows": chance, "guesses": noisy}
    found = evaluate_ceiling(Evaluation(right[0], targets=TARGETS, n_resamples=100), right, p)
    by_target = {t: select(found, target=t).set_index("router")["estimate"] for t in ("a", "b", "")}
    for area in by_target.values():
        assert area[LOWER] < area["knows"] < area[UPPER] and area["guesses"] < area["knows"]
    expected = roc_auc_score(right[:, :, 1].ravel(), np.tile(noisy[:, 1], 10))
    assert by_target["b"]["guesses"] == pytest.approx(expected)
    assert (found["n"] == 400).all() and set(found["metric"]) == {CEILING}


def test_the_ceiling_compares_queries_of_one_fold_alone(drawn):
    chance, right = drawn
    folds = np.arange(len(chance)) % 2
    p = {"shifted": np.where(folds[:, None] == 0, chance, chance - 1)}  # the same ranks in a fold
    at = Evaluation(right[0], targets=TARGETS, folds=folds, n_resamples=20)
    found = evaluate_ceiling(at, right, p)
    won = pairs = 0.0
    for fold in (0, 1):
        y, scores = right[:, folds == fold, 0].ravel(), np.tile(chance[folds == fold, 0], 10)
        n_pairs = y.sum() * (~y).sum()
        won, pairs = won + roc_auc_score(y, scores) * n_pairs, pairs + n_pairs
    assert estimate_of(found, CEILING, "shifted", target="a") == pytest.approx(won / pairs)


def test_labels_that_cannot_be_sampled_leave_the_question_out(study):
    assert label_noise(study).empty
