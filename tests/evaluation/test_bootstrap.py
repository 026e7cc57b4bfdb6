import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router.errors import InputError
from prefill_router.evaluation import bootstrap
from prefill_router.evaluation.bootstrap import (
    Ranking,
    detectable_difference,
    estimate,
    holm,
    p_values,
    standard_error,
)
from prefill_router.evaluation.results import Quantity


def intervals(column, groups=None, function=lambda values: values, **how):
    """Return (estimate, lower, upper) of each value of a function of one column."""
    n_values = np.asarray(function(np.ones((1, *np.shape(column)[1:])))).size
    if isinstance(column, Ranking):
        n_values = np.size(column.scores[0])
    quantities = {tuple(Quantity(f"{i}") for i in range(n_values)): lambda m: function(m["c"])}
    found = estimate({"c": column}, quantities, groups, **how)
    return found[["estimate", "lower", "upper"]].to_numpy()


def test_ratios_of_means_agree_with_scipy():
    rng = np.random.default_rng(1)
    a = rng.random(200) + 1
    b = a + rng.normal(0, 0.1, 200)
    how = {"paired": True, "method": "percentile", "n_resamples": 5000, "rng": 2}
    ratio = scipy.stats.bootstrap((a, b), lambda x, y, axis: x.mean(axis) / y.mean(axis), **how)
    low, high = ratio.confidence_interval
    [ours] = intervals(np.column_stack([a, b]), None, lambda m: m[:, 0] / m[:, 1])
    assert ours[0] == pytest.approx(a.mean() / b.mean())
    assert ours[1:] == pytest.approx((low, high), abs=0.08 * (high - low))


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    samples = (rng.random((120, 400)) < 0.3).astype(float)  # 400 studies of 120 queries
    _, lower, upper = intervals(samples, n_resamples=600).T
    assert 0.91 <= np.mean((lower <= 0.3) & (upper >= 0.3)) <= 0.98


def test_repeating_every_row_within_its_group_changes_nothing():
    values, groups = np.random.default_rng(3).random((80, 2)), np.arange(80)
    once = intervals(values, groups)
    thrice = intervals(np.repeat(values, 3, axis=0), np.repeat(groups, 3))
    np.testing.assert_allclose(once, thrice)
    naive = np.diff(intervals(np.repeat(values, 3, axis=0))[0, 1:])
    assert naive < 0.7 * np.diff(once[0, 1:])


def test_the_seed_decides_and_chunks_do_not_show(monkeypatch):
    values = np.random.default_rng(4).random((30, 1))
    first = intervals(values, n_resamples=40, seed=5)
    assert (first == intervals(values, n_resamples=40, seed=5)).all()
    assert (first != intervals(values, n_resamples=40, seed=6)).any()
    monkeypatch.setattr(bootstrap, "CHUNK", 7)
    np.testing.assert_allclose(first, intervals(values, n_resamples=40, seed=5))


def test_a_mean_of_nothing_and_an_auc_of_one_class_are_undefined():
    scores = np.random.default_rng(7).random((10, 2))
    correct = np.column_stack([np.ones(10), np.full(10, np.nan)])
    assert np.isnan(intervals(Ranking(scores, correct), n_resamples=5)).all()
    first, second = intervals(correct, n_resamples=5)
    assert first.tolist() == [1, 1, 1] and np.isnan(second).all()


def test_p_values_agree_with_the_intervals_and_with_the_normal_test():
    rng = np.random.default_rng(9)
    values = rng.normal(np.linspace(0, 0.35, 12), 1, size=(200, 12))
    p = p_values(values, n_resamples=4000)
    _, lower, upper = intervals(values, n_resamples=4000).T
    z = values.mean(axis=0) / (values.std(axis=0) / np.sqrt(200))
    np.testing.assert_allclose(p, 2 * scipy.stats.norm.sf(np.abs(z)), atol=0.04)
    clear = np.abs(p - 0.05) > 2e-3
    excluded = (lower > 0) | (upper < 0)
    assert np.array_equal((p < 0.05)[clear], excluded[clear])
    assert 0 < excluded.sum() < 12


def test_p_values_are_small_as_often_as_they_say():
    values = np.random.default_rng(10).normal(size=(100, 400))
    groups = np.arange(100) // 2
    p = p_values(values[groups], groups, n_resamples=1000)
    assert (p < 0.05).mean() == pytest.approx(0.06, abs=0.035)
    assert (p_values(values[groups], n_resamples=500) < 0.05).mean() > 0.1
    ends = p_values(np.column_stack([np.zeros(9), np.ones(9)]), n_resamples=99)
    assert ends.tolist() == [1, 2 / 100]


def test_a_centred_interval_holds_a_statistic_that_noise_can_only_raise():
    values = np.random.default_rng(9).normal(size=(200, 30))

    def size(means):
        return np.abs(means).sum(axis=1, keepdims=True)

    [plain], [centred] = (intervals(values, None, size, centred=way) for way in (False, True))
    assert plain[1] > plain[0] and centred[1] < centred[0] < centred[2]
    assert np.diff(centred[1:]) == pytest.approx(np.diff(plain[1:]))


@pytest.mark.parametrize("n_resamples", [2, 250, 251, 501])
def test_a_statistic_sees_a_single_row_only_of_the_sample_itself(n_resamples):
    seen = []

    def spy(m):
        seen.append(len(m["c"]))
        return m["c"]

    estimate({"c": np.arange(9.0)}, {Quantity("mean"): spy}, n_resamples=n_resamples)
    assert seen.count(1) == 1 and sum(seen) == n_resamples + 1


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
