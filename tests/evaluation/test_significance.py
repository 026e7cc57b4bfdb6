import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import estimate, p_values, resampled
from prefill_router.evaluation.results import Quantity, one
from prefill_router.evaluation.significance import (
    DETECTABLE,
    HOLM,
    P_VALUE,
    compare_significance,
    holm,
    minimal_detectable_difference,
    standard_error,
)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """A hypothesis is rejected where every set of hypotheses that holds it is."""
    subsets = [s for r in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), r)]
    for i, adjusted in enumerate(holm(p)):
        want = max(min(1, len(s) * min(p[j] for j in s)) for s in subsets if i in s)
        assert adjusted == pytest.approx(want)


def test_holm_golden():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]).tolist() == [1, 1]


def test_the_standard_error_is_that_of_the_mean_and_of_the_bootstrap_of_groups():
    rng = np.random.default_rng(0)
    values = rng.normal(size=600)
    assert standard_error(values) == pytest.approx(scipy.stats.sem(values))
    groups = rng.integers(0, 150, 600)
    grouped = rng.normal(size=150)[groups] + values
    mean = {Quantity("mean"): lambda m: m["values"]}
    found = estimate({"values": grouped}, mean, groups, n_resamples=8000).iloc[0]
    by_bootstrap = (found.upper - found.lower) / (2 * scipy.stats.norm.ppf(0.975))
    assert standard_error(grouped, groups) == pytest.approx(by_bootstrap, rel=0.05)
    assert standard_error(grouped, groups) > 1.3 * standard_error(grouped)


def test_a_difference_of_the_detectable_size_is_detected_as_often_as_it_says():
    """Tests of many simulated studies whose true difference is the one that was promised."""
    rng = np.random.default_rng(1)
    n_groups, shared = 150, np.repeat(np.arange(150), 2)

    def study(difference):
        lead = rng.normal(difference, 1, n_groups)[shared] + rng.normal(0, 0.5, 2 * n_groups)
        common = rng.normal(size=2 * n_groups)
        return common + lead, common

    promised = np.mean([minimal_detectable_difference(*study(0), shared) for _ in range(200)])
    differences = np.column_stack([np.subtract(*study(promised)) for _ in range(400)])
    found = (p_values(differences, shared, n_resamples=1000) < 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.06)


def test_the_detectable_difference_is_a_multiple_of_the_standard_error():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, (2, 500))
    usual = minimal_detectable_difference(a, b)
    assert usual == pytest.approx((1.959964 + 0.841621) * scipy.stats.sem(a - b), rel=1e-5)
    assert minimal_detectable_difference(a, a) == 0


def test_the_primary_is_tested_against_each_other_router():
    rng = np.random.default_rng(3)
    correct = (rng.random((400, 2)) < [0.8, 0.5]).astype(float)
    correct[:10, 1] = np.nan
    choices = {
        "same": np.zeros(400, int),
        "poor": np.ones(400, int),
        "mine": np.zeros(400, int),
        "nearly": (np.arange(400) % 40 == 0).astype(int),
    }
    found = compare_significance(choices, correct, primary="mine", n_resamples=999)
    table = found.pivot(index="versus", columns="metric", values="estimate")
    assert set(table.index) == {"same", "poor", "nearly"} and (found["n"] == 390).all()
    assert table.loc["poor", P_VALUE] == 0.002
    assert table.loc["poor", HOLM] == pytest.approx(0.006)
    assert table.loc["same", [P_VALUE, DETECTABLE]].tolist() == [1, 0]
    detectable = minimal_detectable_difference(correct[10:, 0], correct[10:, 1])
    assert table.loc["poor", DETECTABLE] == pytest.approx(detectable)
    np.testing.assert_allclose(table[HOLM], holm(table[P_VALUE]))


def test_p_values_of_accuracy_are_those_of_gap_closed():
    rng = np.random.default_rng(4)
    correct = (rng.random((120, 3)) < [0.6, 0.5, 0.5]).astype(float)
    choices = dict(zip("ab", rng.integers(0, 3, (2, 120)), strict=True))
    found = compare_significance(choices, correct, primary="a", n_resamples=500)
    at = np.arange(120)
    columns = {name: correct[at, choice] for name, choice in choices.items()}
    columns |= {"best": correct[:, 0], "oracle": correct.max(axis=1)}
    _, drawn = resampled(
        columns, [lambda m: (m["a"] - m["b"]) / (m["oracle"] - m["best"])], None, 500, 0
    )
    smaller = min((drawn <= 0).sum(), (drawn >= 0).sum())
    assert one(found, metric=P_VALUE, versus="b").estimate == pytest.approx(2 * (1 + smaller) / 501)


def test_queries_asked_again_in_their_group_tell_nothing_more():
    rng = np.random.default_rng(5)
    correct = (rng.random((80, 2)) < [0.65, 0.5]).astype(float)
    correct[3, 1] = np.nan
    choices = {"a": np.zeros(80, int), "b": np.ones(80, int), "c": rng.integers(0, 2, 80)}
    once = compare_significance(choices, correct, primary="a", n_resamples=500)
    again, group = {name: np.repeat(c, 5) for name, c in choices.items()}, np.arange(80)
    found = compare_significance(
        again, np.repeat(correct, 5, axis=0), np.repeat(group, 5), primary="a", n_resamples=500
    )
    pd.testing.assert_frame_equal(found.drop(columns="n"), once.drop(columns="n"))
    p = once.loc[once["metric"] == P_VALUE, "estimate"]
    assert ((p > 0.01) & (p < 1)).all()  # not one that more queries leave alone


def test_bad_input_is_named():
    ones = np.ones((4, 2))
    with pytest.raises(InputError, match="Unknown primary router 'x'"):
        compare_significance({"a": np.zeros(4, int)}, ones, primary="x")
    with pytest.raises(InputError, match="no other router"):
        compare_significance({"a": np.zeros(4, int)}, ones, primary="a")
    with pytest.raises(InputError, match="two groups"):
        standard_error(np.ones(3), np.zeros(3))
