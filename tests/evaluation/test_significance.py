import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import estimate, p_values
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import Quantity, select
from prefill_router.evaluation.significance import (
    P_VALUE,
    detectable_difference,
    holm,
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


def test_the_standard_error_is_that_of_the_mean_and_of_the_bootstrap_of_groups():
    rng = np.random.default_rng(0)
    values = rng.normal(size=600)
    assert standard_error(values) == pytest.approx(scipy.stats.sem(values))
    multiple = 1.959964 + 0.841621  # of the normal distribution: 97.5 % and 80 %
    assert detectable_difference(values) == pytest.approx(multiple * standard_error(values))
    groups = rng.integers(0, 150, 600)
    grouped = rng.normal(size=150)[groups] + values
    mean = {Quantity("mean"): lambda m: m["values"]}
    found = estimate({"values": grouped}, mean, groups, n_resamples=8000).iloc[0]
    by_bootstrap = (found.upper - found.lower) / (2 * scipy.stats.norm.ppf(0.975))
    assert standard_error(grouped, groups) == pytest.approx(by_bootstrap, rel=0.05)
    assert standard_error(grouped, groups) > 1.3 * standard_error(grouped)
    with pytest.raises(InputError, match="two groups"):
        standard_error(values, np.zeros(600))


def test_a_difference_of_the_detectable_size_is_detected_as_often_as_it_says():
    """Tests of many simulated studies whose true difference is the one that was promised."""
    rng = np.random.default_rng(1)
    n_groups, shared = 150, np.repeat(np.arange(150), 2)

    def study(difference):
        return rng.normal(difference, 1, n_groups)[shared] + rng.normal(0, 0.5, 2 * n_groups)

    promised = np.mean([detectable_difference(study(0), shared) for _ in range(200)])
    differences = np.column_stack([study(promised) for _ in range(400)])
    found = (p_values(differences, shared, n_resamples=1000) < 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.06)


def test_queries_asked_again_in_their_group_tell_nothing_more():
    rng = np.random.default_rng(5)
    correct = (rng.random((80, 2)) < [0.65, 0.5]).astype(float)
    correct[3, 1] = np.nan
    choices = {"a": np.zeros(80, int), "b": np.ones(80, int), "c": rng.integers(0, 2, 80)}
    once = Evaluation(correct).significance(choices, "a", n_resamples=500)
    again = Evaluation(np.repeat(correct, 5, axis=0), groups=np.repeat(np.arange(80), 5))
    choices = {name: np.repeat(choice, 5) for name, choice in choices.items()}
    found = again.significance(choices, "a", n_resamples=500)
    pd.testing.assert_frame_equal(found.drop(columns="n"), once.drop(columns="n"))
    p = select(once, metric=P_VALUE, versus=None)["estimate"]
    assert ((p > 0.01) & (p < 1)).all()  # not one that more queries leave alone
    with pytest.raises(InputError, match="'a' has no other router"):
        again.significance({"a": choices["a"]}, "a")
