from itertools import combinations

import numpy as np
import pytest
from tiny_studies import weighted_auc

from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import label_noise as it


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, size=(400, 3)) * [0.9, 1, 0.8]
    return chance, rng.random((10, 400, 3)) < chance


def queries(right, best=0):
    """The queries of some draws (S, N, K) in two folds, each by itself, of one best target."""
    n = np.arange(right.shape[1])
    targets = "abcd"[: right.shape[2]]
    return Evaluation(right[0], None, n, n * 0 + best, targets, n % 2, n_resamples=100)


def noise(right, best=0, **choices):
    return it.evaluate_noise(queries(right, best), right, choices, np.arange(right.shape[2]))


def estimate_of(found, metric, router="", **where):
    return one(found, metric=metric, router=router, **where).estimate


def test_the_reproducible_oracle_is_that_of_every_split_of_the_draws(drawn):
    right, priority = drawn[1][:4, :50], np.array([0.2, 0.1, 0.3])
    for m in (1, 2, 3):
        expected = []
        for seen in combinations(range(4), m):
            rest = [d for d in range(4) if d not in seen]
            counts = right[list(seen)].sum(axis=0) + priority
            expected.append(right[rest, :].mean(axis=0)[np.arange(50), counts.argmax(axis=1)])
        np.testing.assert_allclose(it.reproducible(right, m, priority), np.mean(expected, axis=0))


def test_headroom_of_pure_luck_is_not_real_and_of_answers_that_never_vary_all_is():
    rng = np.random.default_rng(1)
    found = noise(rng.random((10, 3000, 4)) < 0.5)
    single = estimate_of(found, "headroom", it.SINGLE_DRAW)
    assert single == pytest.approx(1 - 0.5**4 - 0.5, abs=0.01)
    for metric in ("headroom", "real share"):
        assert abs(estimate_of(found, metric, it.REPRODUCIBLE, x=5)) < 0.03

    answers = rng.random((500, 3)) < 0.6
    found = noise(np.repeat(answers[None], 10, axis=0), perfect=answers.argmax(axis=1))
    shares = select(found, metric="real share")
    assert shares["x"].tolist() == list(range(1, 10))
    assert shares["estimate"].tolist() == pytest.approx([1] * 9)
    for against in ("single draw", "reproducible"):
        row = one(found, metric=f"gap closed, {against}", router="perfect")
        assert (row.estimate, row.lower) == pytest.approx((1, 1))
    draws = select(found, metric=[it.AGREEMENT, it.RELIABILITY], target=None)
    assert draws["estimate"].tolist() == [1] * 6


def test_more_draws_seen_come_nearer_to_who_knows_every_chance(drawn):
    chance, right = drawn
    found = noise(right, best=1, knows=chance.argmax(axis=1))
    rooms = select(found, metric="headroom", router=it.REPRODUCIBLE)["estimate"].to_numpy()
    assert (np.diff(rooms) > -0.003).all() and rooms[-1] > rooms[0]
    known = chance.max(axis=1).mean() - chance[:, 1].mean()
    assert rooms[-1] == pytest.approx(known, abs=0.03)
    assert estimate_of(found, "headroom", it.SINGLE_DRAW) > known + 0.03
    of_draw, of_real = (
        estimate_of(found, f"gap closed, {way}", "knows") for way in ("single draw", "reproducible")
    )
    real = estimate_of(found, "real share", it.REPRODUCIBLE, x=5)
    assert of_real == pytest.approx(of_draw / real)
    mean = chance.mean(axis=0)
    for metric, truth in {
        it.RELIABILITY: chance.var(axis=0) / (mean * (1 - mean)),  # what is between queries
        it.AGREEMENT: (chance**2 + (1 - chance) ** 2).mean(axis=0),
    }.items():
        rows = select(found, metric=metric, target=list("abc"))
        assert ((rows["lower"] < truth) & (truth < rows["upper"])).all()


def test_the_ceiling_is_above_every_router_whose_scores_compare_within_a_fold(drawn):
    chance, right = drawn
    folds = np.arange(len(chance)) % 2
    p = {"knows": chance - folds[:, None]}  # the same ranks within a fold
    p["guesses"] = p["knows"] + np.random.default_rng(3).normal(0, 0.2, chance.shape)
    found = it.evaluate_ceiling(queries(right), right, p)
    for target in ("a", "b", ""):
        area = select(found, target=target).set_index("router")["estimate"]
        assert area[it.LOWER] < area["knows"] < area[it.UPPER] and area["guesses"] < area["knows"]
    assert (found["n"] == 400).all() and set(found["metric"]) == {it.CEILING}
    parts = [np.tile(folds == f, 10) for f in (0, 1)]
    expected = weighted_auc(right[:, :, 0].ravel().astype(float), np.tile(chance[:, 0], 10), parts)
    assert estimate_of(found, it.CEILING, "knows", target="a") == pytest.approx(expected)


def test_labels_that_cannot_be_sampled_leave_the_question_out(study):
    assert it.label_noise(study).empty
