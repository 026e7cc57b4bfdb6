import numpy as np
import pytest
from scipy.stats import binom

from prefill_router.errors import InputError
from prefill_router.router.guarantee import BETS, certify, p_value

TARGETS = ["cheap", "dear"]


def pool(n=2000, seed=0):
    """A cheap and a more accurate target, and probabilities that are true."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random((n, 1)) < 0.6, [[0.3, 0.7]], [[0.6, 0.4]])
    return truth, (rng.random((n, 2)) < truth).astype(float), np.array([1.0, 5.0])


def test_the_p_value_is_the_inverse_of_the_most_that_gamblers_ever_own():
    gains, d = np.array([1.0, 0, -1, 1, 0, 1]), 0.1
    order = np.random.default_rng(0).permutation(6)
    most = 0
    for n in range(1, 7):
        owned = [
            np.prod([1 + share / (1 - d) * (x + d) for x in gains[order][:n]]) for share in BETS
        ]
        most = max(most, np.mean(owned))
    assert p_value(gains, d) == pytest.approx(min(1, 1 / most))
    assert max(BETS) < 1  # or else one lost bet would be the end


@pytest.mark.parametrize("discordant", [0.1, 0.4, 1.0])
def test_p_values_are_valid_where_the_hypothesis_just_holds(discordant):
    """At most a share alpha of them may be below alpha; a binomial bound allows for chance."""
    rng, d, n = np.random.default_rng(0), 0.05, 400
    shares = [(discordant + d) / 2, 1 - discordant, (discordant - d) / 2]
    values = [p_value(rng.choice([-1, 0, 1], n, p=shares), d) for _ in range(600)]
    for alpha in (0.05, 0.2):
        assert np.sum(np.array(values) <= alpha) <= binom.ppf(0.999, 600, alpha)


def test_a_true_gain_is_found():
    rng = np.random.default_rng(0)
    gains = rng.choice([-1, 0, 1], 2000, p=[0.1, 0.75, 0.15])
    assert p_value(gains, 0.02) < 1e-3
    assert p_value(-gains, 0.02) > 0.05


def test_tolerances_are_tried_in_order_until_one_fails():
    p, correct, cost = pool()
    wanted = {"targets": TARGETS, "max_loss": 0.05, "confidence": 0.9}
    found = certify(p, correct, cost, 1, **wanted)
    assert all(value <= 0.1 for value in found.p_values[:-1]) and found.p_values[-1] > 0.1
    assert found.tau == found.taus[-2] and found.taus[0] == 0
    assert "at most 5 points below always asking dear" in str(found)
    # the last of a short sequence that passes throughout
    short = certify(
        p, correct, cost, 1, targets=TARGETS, max_loss=0.05, confidence=0.9, taus=[0, 0.01]
    )
    assert short.tau == 0.01 and len(short.p_values) == 2


def test_nothing_is_certified_by_few_labels_and_it_says_so():
    p, correct, cost = pool(30)
    found = certify(p, correct, cost, 1, targets=TARGETS)
    assert found.tau is None and len(found.taus) == 1
    assert str(found).startswith("Nothing is certified: 30 held-out queries")
    assert "ask dear" in str(found)


def test_a_group_counts_once_and_its_size_is_no_evidence():
    p, correct, cost = pool(300)
    once = certify(p, correct, cost, 1, targets=TARGETS, max_loss=0.2)
    groups = np.repeat(np.arange(300), 5)
    repeated = (np.repeat(values, 5, axis=0) for values in (p, correct))
    many = certify(*repeated, cost, 1, groups, targets=TARGETS, max_loss=0.2)
    assert many.p_values == once.p_values and many.tau == once.tau
    assert (many.n, many.n_groups) == (1500, 300)


def test_incomplete_rows_are_left_out_and_levels_are_checked():
    p, correct, cost = pool(200)
    holed = np.vstack([correct, [[np.nan, 1]] * 50])
    more = certify(np.vstack([p, p[:50]]), holed, cost, 1, targets=TARGETS)
    assert more.n == 200
    for bad in ({"max_loss": 0}, {"max_loss": 1.5}, {"confidence": 1}):
        with pytest.raises(InputError, match="between 0 and 1"):
            certify(p, correct, cost, 1, targets=TARGETS, **bad)
