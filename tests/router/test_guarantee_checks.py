import numpy as np
import pytest
from scipy.stats import binomtest

from prefill_router.router import guarantee, guarantee_checks
from prefill_router.router.guarantee_checks import World, labels_needed, make_world, simulate

TAUS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def world():
    return make_world(noise=2.0)


def at_the_edge(world, place):
    """Return the loss that a tolerance has, less a little: certifying it is always an error."""
    return float(world.losses(TAUS)[place]) - 1e-9


def test_losses_are_known(world):
    losses = world.losses(TAUS)
    assert losses[0] < 0 < losses[3]  # knowing half is better than one target; cheap is worse
    assert (np.diff(losses) > 0).all()


@pytest.mark.parametrize("place", [3, 4])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_promises_are_broken_at_most_as_often_as_they_may_be(world, place, confidence):
    """A tolerance that loses just more than allowed is certified with probability alpha at most."""
    found = simulate(
        world,
        800,
        max_loss=at_the_edge(world, place),
        confidence=confidence,
        taus=TAUS,
        repetitions=250,
    )
    assert found.given > 0.2 * found.repetitions  # or else it would be right by saying nothing
    assert binomtest(found.wrong, found.repetitions, 1 - confidence, "greater").pvalue > 0.01
    assert found.lower <= 1 - confidence


def test_the_simulation_catches_a_test_that_is_not_valid(world, monkeypatch):
    """Point estimates in place of p-values are wrong about half of the time."""
    monkeypatch.setattr(guarantee, "p_value", lambda gains, d: float(gains.mean() <= -d))
    found = simulate(
        world, 800, max_loss=at_the_edge(world, 3), confidence=0.95, taus=TAUS, repetitions=100
    )
    assert found.lower > 0.05 and found.rate > 0.3


def test_the_error_rate_has_an_exact_bound():
    made = guarantee_checks.Simulation(100, 80, 12)
    expected = binomtest(12, 100).proportion_ci(0.98, "exact").low
    assert made.lower == pytest.approx(expected) and made.rate == 0.12
    assert guarantee_checks.Simulation(100, 80, 0).lower == 0


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
        targets=["a", "b", "c"],
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
    cheapest = World(world.truth, world.p, world.cost).cost[0]
    assert cheapest <= generous["cost"] <= world.cost[-1]


def test_other_tolerances_can_be_tried(world):
    correct = (np.random.default_rng(0).random(world.truth.shape) < world.truth).astype(float)
    table = labels_needed(
        world.p, correct, world.cost, world.best_single,
        targets=["a", "b", "c"], max_losses=(0.1,), shares=(1.0,), taus=(0.0,),
    )  # fmt: skip
    assert table[["certified", "tau"]].to_numpy().tolist() == [[1.0, 0.0]]


def test_a_share_of_few_groups_is_one_group_at_least():
    rng = np.random.default_rng(0)
    p = rng.random((4, 2))
    table = labels_needed(
        p, np.ones((4, 2)), np.ones(2), 0, targets=["a", "b"], max_losses=(0.05,), repetitions=2
    )
    assert table["groups"].tolist() == [1, 1, 2, 4]
