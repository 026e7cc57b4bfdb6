from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prefill_router.experiments.label_noise import (
    SINGLE_DRAW,
    evaluate_ceiling,
    evaluate_noise,
    evaluate_reliability,
    label_noise,
    reproducible,
    seen_name,
)


def pick(found, metric, router="", target=""):
    (row,) = [r for r in found if (r.metric, r.router, r.target) == (metric, router, target)]
    return row


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, size=(400, 3)) * [0.9, 1, 0.8]
    return chance, rng.random((10, 400, 3)) < chance


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


def test_an_oracle_of_pure_luck_has_headroom_that_is_not_real():
    right = np.random.default_rng(1).random((10, 3000, 4)) < 0.5
    at = np.zeros(3000, dtype=int)
    found = evaluate_noise(right, {"r": at}, at, np.arange(4), n_resamples=200)
    single = pick(found, "headroom", SINGLE_DRAW)
    assert single.estimate == pytest.approx(1 - 0.5**4 - 0.5, abs=0.01)
    assert abs(pick(found, "headroom", seen_name(5)).estimate) < 0.01
    assert abs(pick(found, "real share", seen_name(5)).estimate) < 0.03


def test_where_answers_never_vary_all_headroom_is_real():
    answers = np.random.default_rng(2).random((500, 3)) < 0.6
    right = np.repeat(answers[None], 10, axis=0)
    best, good = np.zeros(500, dtype=int), answers.argmax(axis=1)
    found = evaluate_noise(right, {"perfect": good}, best, np.arange(3), n_resamples=200)
    for m in range(1, 10):
        assert pick(found, "real share", seen_name(m)).estimate == pytest.approx(1)
    for against in ("single draw", "reproducible"):
        assert pick(found, f"gap closed, {against}", "perfect").estimate == pytest.approx(1)
    assert pick(found, "gap closed, reproducible", "perfect").lower == pytest.approx(1)
    assert all(r.estimate == 1 for r in evaluate_reliability(right, ("a", "b", "c")))


def test_more_draws_seen_come_nearer_to_who_knows_every_chance(drawn):
    chance, right = drawn
    at = np.ones(400, dtype=int)
    found = evaluate_noise(
        right, {"knows": chance.argmax(axis=1)}, at, np.arange(3), n_resamples=100
    )
    rooms = [pick(found, "headroom", seen_name(m)).estimate for m in range(1, 10)]
    assert (np.diff(rooms) > -0.003).all() and rooms[-1] > rooms[0]
    known = chance.max(axis=1).mean() - chance[:, 1].mean()
    assert rooms[-1] == pytest.approx(known, abs=0.03)
    assert pick(found, "headroom", SINGLE_DRAW).estimate > known + 0.03
    ratio = pick(found, "gap closed, reproducible", "knows").estimate
    assert ratio == pytest.approx(
        pick(found, "gap closed, single draw", "knows").estimate
        / pick(found, "real share", seen_name(5)).estimate
    )


def test_reliability_is_the_share_of_variance_between_queries(drawn):
    chance, right = drawn
    found = evaluate_reliability(right, ("a", "b", "c"), n_resamples=200)
    for k, target in enumerate("abc"):
        p = chance[:, k]
        row = pick(found, "label reliability", target=target)
        assert row.lower < p.var() / (p.mean() * (1 - p.mean())) < row.upper
        agree = pick(found, "two draws agree", target=target)
        assert agree.lower < (p**2 + (1 - p) ** 2).mean() < agree.upper


def test_the_ceiling_is_between_its_bounds_and_no_router_is_above_it(drawn):
    chance, right = drawn
    noisy = chance + np.random.default_rng(3).normal(0, 0.2, chance.shape)
    p = {"knows": chance, "guesses": noisy}
    found = evaluate_ceiling(right, p, ("a", "b", "c"), n_resamples=100)
    for k, target in enumerate("abc"):
        row = {n: pick(found, "AUC against a draw", n, target).estimate for n in p}
        lower, upper = (
            pick(found, "AUC against a draw", f"ceiling, {bound} bound", target).estimate
            for bound in ("lower", "upper")
        )
        assert lower < row["knows"] < upper and row["guesses"] < row["knows"]
        scores = np.tile(noisy[:, k], 10)
        expected = roc_auc_score(right[:, :, k].ravel(), scores)
        assert row["guesses"] == pytest.approx(expected)
    means = [pick(found, "AUC against a draw", "knows", t).estimate for t in "abc"]
    assert pick(found, "AUC against a draw", "knows").estimate == pytest.approx(np.mean(means))


def test_the_ceiling_compares_queries_of_one_fold_alone(drawn):
    chance, right = drawn
    folds = np.arange(len(chance)) % 2
    p = {"shifted": np.where(folds[:, None] == 0, chance, chance - 1)}  # the same ranks in a fold
    found = evaluate_ceiling(right, p, ("a", "b", "c"), folds=folds, n_resamples=20)
    for k, target in enumerate("abc"):
        won = pairs = 0.0
        for fold in (0, 1):
            y, scores = right[:, folds == fold, k].ravel(), np.tile(chance[folds == fold, k], 10)
            n_pairs = y.sum() * (~y).sum()
            won, pairs = won + roc_auc_score(y, scores) * n_pairs, pairs + n_pairs
        row = pick(found, "AUC against a draw", "shifted", target)
        assert row.estimate == pytest.approx(won / pairs)


def test_labels_that_cannot_be_sampled_leave_the_question_out(study):
    assert label_noise(study) == []
