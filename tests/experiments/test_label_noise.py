from itertools import combinations

import numpy as np
import pytest

from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import label_noise as it


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, size=(400, 3)) * [0.9, 1, 0.8]
    return chance, rng.random((10, 400, 3)) < chance


def noise(right, asked, best=0):
    """What is found of some draws (S, N, K), of a router's choices and one best single target."""
    at = Evaluation(right[0], best_single=np.full(right.shape[1], best), n_resamples=100)
    return it.evaluate_noise(at, right, np.arange(right.shape[2]), "router", asked)


def estimate_of(found, metric, router="router", **where):
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
    found = noise(rng.random((10, 3000, 4)) < 0.5, np.zeros(3000, int))
    single = estimate_of(found, "headroom", it.SINGLE_DRAW)
    assert single == pytest.approx(1 - 0.5**4 - 0.5, abs=0.01)
    for metric in ("headroom", it.REAL):
        assert abs(estimate_of(found, metric, it.REPRODUCIBLE, x=5)) < 0.03

    answers = rng.random((500, 3)) < 0.6
    found = noise(np.repeat(answers[None], 10, axis=0), answers.argmax(axis=1))
    shares = select(found, metric=it.REAL)
    assert shares["x"].tolist() == list(range(1, 10))
    assert shares["estimate"].tolist() == pytest.approx([1] * 9)
    for metric in (it.OF_DRAW, it.OF_REPRODUCIBLE):
        row = one(found, metric=metric, router="router")
        assert (row.estimate, row.lower) == pytest.approx((1, 1))


def test_more_draws_seen_come_nearer_to_who_knows_every_chance(drawn):
    chance, right = drawn
    found = noise(right, chance.argmax(axis=1), best=1)
    rooms = select(found, metric="headroom", router=it.REPRODUCIBLE)["estimate"].to_numpy()
    assert (np.diff(rooms) > -0.003).all() and rooms[-1] > rooms[0]
    known = chance.max(axis=1).mean() - chance[:, 1].mean()
    assert rooms[-1] == pytest.approx(known, abs=0.03)
    assert estimate_of(found, "headroom", it.SINGLE_DRAW) > known + 0.03
    real = estimate_of(found, it.REAL, it.REPRODUCIBLE, x=5)
    of_draw, of_real = (estimate_of(found, name) for name in (it.OF_DRAW, it.OF_REPRODUCIBLE))
    assert of_real == pytest.approx(of_draw / real)


def test_labels_that_cannot_be_sampled_leave_the_question_out(study):
    assert it.label_noise(study).empty
