import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom, binomtest

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.router.guarantee import BETS, certify, p_value


def pool(n=2000, repeat=1):
    """A cheap and a more accurate target, and probabilities that are true."""
    rng = np.random.default_rng(0)
    truth = np.where(rng.random((n, 1)) < 0.6, [[0.3, 0.7]], [[0.6, 0.4]])
    correct = (rng.random((n, 2)) < truth).astype(float)
    correct, truth, groups = (np.repeat(v, repeat, axis=0) for v in (correct, truth, np.arange(n)))
    return Evaluation(correct, [1.0, 5.0], groups, 1, ["cheap", "dear"]), truth


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


@pytest.mark.parametrize("discordant", [0.1, 1.0])
def test_p_values_are_valid_where_the_hypothesis_just_holds(discordant):
    """At most a share alpha of them may be below alpha; a binomial bound allows for chance."""
    rng, d, n = np.random.default_rng(0), 0.05, 400
    shares = [(discordant + d) / 2, 1 - discordant, (discordant - d) / 2]
    values = [p_value(rng.choice([-1, 0, 1], n, p=shares), d) for _ in range(600)]
    for alpha in (0.05, 0.2):
        assert np.sum(np.array(values) <= alpha) <= binom.ppf(0.999, 600, alpha)


def test_tolerances_are_tried_in_order_until_one_fails():
    wanted = {"max_loss": 0.05, "confidence": 0.9}
    found = certify(*pool(), **wanted)
    assert all(value <= 0.1 for value in found.p_values[:-1]) and found.p_values[-1] > 0.1
    assert found.tau == found.taus[-2] and found.taus[0] == 0
    assert "at most 5 points below always asking dear" in str(found)
    short = certify(*pool(), **wanted, taus=[0, 0.01])  # passes throughout
    assert short.tau == 0.01 and len(short.p_values) == 2


def test_nothing_is_certified_by_few_labels_and_it_says_so():
    found = certify(*pool(30))
    assert found.tau is None and len(found.taus) == 1
    assert str(found).startswith("Nothing is certified: 30 held-out queries")
    assert "ask dear" in str(found)


def test_a_group_counts_once_and_its_size_is_no_evidence():
    once, many = (certify(*pool(300, repeat), max_loss=0.2) for repeat in (1, 5))
    assert many.p_values == once.p_values and many.tau == once.tau
    assert (many.n, many.n_groups) == (1500, 300)


def test_incomplete_rows_are_left_out_and_levels_are_checked():
    at, p = pool(200)
    at.correct[150:, 0] = np.nan
    assert certify(at, p) == certify(at.take(np.arange(150)), p[:150])
    for bad in ({"max_loss": 0}, {"max_loss": 1.5}, {"confidence": 1}):
        with pytest.raises(InputError, match="between 0 and 1"):
            certify(at, p, **bad)


@pytest.mark.parametrize(("place", "confidence"), [(3, 0.8), (4, 0.95)])
def test_promises_are_broken_at_most_as_often_as_they_may_be(place, confidence):
    """A tolerance that loses just more than allowed is certified with probability alpha at most.

    A cheap, a middling and a dear target have a true P(correct), of which a router believes
    something else; 800 held-out labels are drawn again and again.
    """
    rng, taus, cost = np.random.default_rng(0), (0.0, 0.05, 0.1, 0.2, 0.3, 0.4), [1.0, 3.0, 9.0]
    logits = np.array([-0.4, 0.1, 0.5]) + rng.normal(size=(5000, 1)) + rng.normal(size=(5000, 3))
    truth, p = (expit(z) for z in (logits, logits + 2 * rng.normal(size=logits.shape)))
    chosen = (policy.tolerance(p, cost, tau) for tau in taus)
    right = [truth[np.arange(5000), choice].mean() for choice in chosen]
    losses = truth[:, 2].mean() - np.array(right)  # against the dearest, which is the best
    assert losses[0] < 0 < losses[3] and (np.diff(losses) > 0).all()
    most, given, wrong, rng = losses[place] - 1e-9, 0, 0, np.random.default_rng(0)
    for _ in range(250):
        rows = rng.integers(len(p), size=800)
        correct = (rng.random((800, 3)) < truth[rows]).astype(float)
        at = Evaluation(correct, cost, None, 2, "abc")
        promise = certify(at, p[rows], max_loss=most, confidence=confidence, taus=taus)
        if promise.tau is not None:
            given += 1
            wrong += (losses[np.array(taus) <= promise.tau] > most).any()
    assert given > 50  # or else it would be right by saying nothing
    assert binomtest(int(wrong), 250, 1 - confidence, "greater").pvalue > 0.01
