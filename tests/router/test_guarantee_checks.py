from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binomtest

from prefill_router import policy
from prefill_router.router import guarantee
from prefill_router.router.guarantee import certify, labels_needed

TAUS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
NAMES = ["a", "b", "c"]


@dataclass(frozen=True)
class World:
    """Queries of known P(correct), (M, K), what a router believes it is, and costs (K,)."""

    truth: np.ndarray
    p: np.ndarray
    cost: np.ndarray

    @property
    def best_single(self):
        return int(self.truth.mean(axis=0).argmax())

    def losses(self):
        """By how much each of `TAUS` is less accurate than the best single target."""
        rows, best = np.arange(len(self.p)), self.truth[:, self.best_single].mean()
        chosen = (policy.tolerance(self.p, self.cost, tau) for tau in TAUS)
        return np.array([best - self.truth[rows, choice].mean() for choice in chosen])


@pytest.fixture(scope="module")
def world():
    """A cheap, a middling and a dear target, the dearer the better; a router half knows them."""
    rng = np.random.default_rng(0)
    logits = np.array([-0.4, 0.1, 0.5]) + rng.normal(size=(5000, 1)) + rng.normal(size=(5000, 3))
    believed = logits + 2 * rng.normal(size=logits.shape)
    return World(*(1 / (1 + np.exp(-z)) for z in (logits, believed)), np.array([1.0, 3.0, 9.0]))


def simulate(world, max_loss, confidence, repetitions):
    """Draw 800 held-out labels again and again: how often is a promise given, how often wrong?"""
    losses, rng = world.losses(), np.random.default_rng(0)
    given = wrong = 0
    for _ in range(repetitions):
        rows = rng.integers(len(world.p), size=800)
        correct = (rng.random((800, 3)) < world.truth[rows]).astype(float)
        promise = certify(
            world.p[rows], correct, world.cost, world.best_single, targets=NAMES,
            max_loss=max_loss, confidence=confidence, taus=TAUS,
        )  # fmt: skip
        if promise.tau is not None:
            given += 1
            wrong += bool((losses[np.array(TAUS) <= promise.tau] > max_loss).any())
    return given, wrong


def test_losses_are_known(world):
    losses = world.losses()
    assert losses[0] < 0 < losses[3]  # knowing half is better than one target; cheap is worse
    assert (np.diff(losses) > 0).all()


@pytest.mark.parametrize("place", [3, 4])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_promises_are_broken_at_most_as_often_as_they_may_be(world, place, confidence):
    """A tolerance that loses just more than allowed is certified with probability alpha at most."""
    given, wrong = simulate(world, world.losses()[place] - 1e-9, confidence, 250)
    assert given > 50  # or else it would be right by saying nothing
    assert binomtest(wrong, 250, 1 - confidence, "greater").pvalue > 0.01


def test_the_simulation_catches_a_test_that_is_not_valid(world, monkeypatch):
    """Point estimates in place of p-values are wrong about half of the time."""
    monkeypatch.setattr(guarantee, "p_value", lambda gains, d: float(gains.mean() <= -d))
    wrong = simulate(world, world.losses()[3] - 1e-9, 0.95, 100)[1]
    assert wrong > 30 and binomtest(wrong, 100, 0.05, "greater").pvalue < 0.01


def test_fewer_labels_certify_less(world):
    rng = np.random.default_rng(0)
    rows = rng.integers(len(world.p), size=1500)
    correct = (rng.random((1500, 3)) < world.truth[rows]).astype(float)
    table = labels_needed(
        world.p[rows],
        correct,
        world.cost,
        world.best_single,
        np.arange(1500) // 2,
        targets=NAMES,
        max_losses=(0.001, 0.1),
        shares=(0.05, 1.0),
        repetitions=5,
    )
    assert table["groups"].tolist() == [38, 750, 38, 750]
    assert table["queries"].tolist() == [76, 1500, 76, 1500]
    few, all_, _, generous = table.to_dict("records")
    assert few["certified"] < 1 and np.isnan(few["tau"]) == (few["certified"] == 0)
    assert generous["certified"] == 1 and generous["tau"] > 0
    assert not all_["tau"] > generous["tau"]
    assert world.cost[0] <= generous["cost"] <= world.cost[-1]


def test_other_tolerances_can_be_tried(world):
    correct = (np.random.default_rng(0).random(world.truth.shape) < world.truth).astype(float)
    table = labels_needed(
        world.p, correct, world.cost, world.best_single,
        targets=NAMES, max_losses=(0.1,), shares=(1.0,), taus=(0.0,),
    )  # fmt: skip
    assert table[["certified", "tau"]].to_numpy().tolist() == [[1.0, 0.0]]


def test_a_share_of_few_groups_is_one_group_at_least():
    rng = np.random.default_rng(0)
    p = rng.random((4, 2))
    table = labels_needed(
        p, np.ones((4, 2)), np.ones(2), 0, targets=["a", "b"], max_losses=(0.05,), repetitions=2
    )
    assert table["groups"].tolist() == [1, 1, 2, 4]
