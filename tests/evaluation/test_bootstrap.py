import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from prefill_router.errors import InputError
from prefill_router.evaluation import bootstrap


def triple(interval):
    return interval.estimate, interval.lower, interval.upper


def test_means_agree_with_scipy():
    values = np.random.default_rng(0).gamma(2, size=(150, 1))
    ours = bootstrap.intervals(values, n_resamples=9999)[0]
    theirs = scipy.stats.bootstrap(
        (values[:, 0],), np.mean, method="percentile", n_resamples=9999, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.estimate == pytest.approx(values.mean())
    assert ours.lower == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.upper == pytest.approx(theirs.high, abs=0.05 * width)


def test_a_ratio_of_means_agrees_with_scipy_on_the_same_paired_rows():
    rng = np.random.default_rng(1)
    a = rng.random(200) + 1
    b = a + rng.normal(0, 0.1, 200)
    ours = bootstrap.intervals(
        np.column_stack([a, b]), statistic=lambda m: m[:, :1] / m[:, 1:], n_resamples=5000
    )[0]
    theirs = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) / y.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=2,
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.lower == pytest.approx(theirs.low, abs=0.08 * width)
    assert ours.upper == pytest.approx(theirs.high, abs=0.08 * width)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    samples = (rng.random((120, 400)) < 0.3).astype(float)  # 400 studies of 120 queries
    found = bootstrap.intervals(samples, n_resamples=600)
    covered = np.mean([i.lower <= 0.3 <= i.upper for i in found])
    assert 0.91 <= covered <= 0.98


def test_repeating_every_row_within_its_group_changes_nothing():
    values = np.random.default_rng(3).random((80, 2))
    groups = np.arange(80)
    once = bootstrap.intervals(values, groups)
    thrice = bootstrap.intervals(np.repeat(values, 3, axis=0), np.repeat(groups, 3))
    for a, b in zip(once, thrice, strict=True):
        assert triple(a) == pytest.approx(triple(b))
    naive = bootstrap.intervals(np.repeat(values, 3, axis=0))[0]
    assert naive.upper - naive.lower < 0.7 * (once[0].upper - once[0].lower)


def test_missing_values_are_left_out_of_their_column_only():
    values = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 1.0], [0.0, np.nan]])
    first, second = bootstrap.intervals(values, n_resamples=300)
    assert first.estimate == 0.5
    assert triple(second) == (1, 1, 1)
    nothing = bootstrap.intervals(np.full((3, 1), np.nan), n_resamples=10)[0]
    assert np.isnan(triple(nothing)).all()


def test_the_seed_decides_and_chunks_do_not_show(monkeypatch):
    values = np.random.default_rng(4).random((30, 1))
    first = bootstrap.intervals(values, n_resamples=40, seed=5)
    assert first == bootstrap.intervals(values, n_resamples=40, seed=5)
    assert first != bootstrap.intervals(values, n_resamples=40, seed=6)
    monkeypatch.setattr(bootstrap, "CHUNK", 7)
    assert triple(first[0]) == pytest.approx(
        triple(bootstrap.intervals(values, n_resamples=40, seed=5)[0])
    )


def test_auc_equals_sklearn_in_every_resample():
    rng = np.random.default_rng(6)
    scores = rng.random((60, 2)).round(1)
    correct = (rng.random((60, 2)) < scores).astype(float)
    correct[:20, 1] = np.nan
    groups = np.repeat(np.arange(30), 2)

    def slow(rows):
        result = []
        for k in range(2):
            seen = rows[~np.isnan(correct[rows, k])]
            result.append(roc_auc_score(correct[seen, k], scores[seen, k]))
        return np.array(result)

    fast = bootstrap.auc_intervals(scores, correct, groups, n_resamples=50, seed=3)
    brute = bootstrap.row_intervals(slow, 60, groups, n_resamples=50, seed=3)
    for a, b in zip(fast, brute, strict=True):
        assert triple(a) == pytest.approx(triple(b))


def test_auc_of_one_class_or_of_no_labels_is_undefined():
    scores = np.random.default_rng(7).random((10, 2))
    correct = np.column_stack([np.ones(10), np.full(10, np.nan)])
    for interval in bootstrap.auc_intervals(scores, correct, n_resamples=5):
        assert np.isnan(triple(interval)).all()


def test_row_intervals_draw_what_intervals_draw():
    values = np.random.default_rng(8).random((25, 1))
    groups = np.arange(25) // 3
    slow = bootstrap.row_intervals(lambda rows: values[rows].mean(0), 25, groups, 60, seed=1)[0]
    fast = bootstrap.intervals(values, groups, n_resamples=60, seed=1)[0]
    assert triple(slow) == pytest.approx(triple(fast))


def test_p_values_agree_with_the_intervals_and_with_the_normal_test():
    rng = np.random.default_rng(9)
    values = rng.normal(np.linspace(0, 0.35, 12), 1, size=(200, 12))
    p = bootstrap.p_values(values, n_resamples=4000)
    found = bootstrap.intervals(values, n_resamples=4000)
    z = values.mean(axis=0) / (values.std(axis=0) / np.sqrt(200))
    np.testing.assert_allclose(p, 2 * scipy.stats.norm.sf(np.abs(z)), atol=0.04)
    clear = np.abs(p - 0.05) > 2e-3
    excluded = np.array([i.lower > 0 or i.upper < 0 for i in found])
    assert np.array_equal((p < 0.05)[clear], excluded[clear])
    assert 0 < excluded.sum() < 12


def test_p_values_are_small_as_often_as_they_say():
    values = np.random.default_rng(10).normal(size=(100, 400))
    groups = np.arange(100) // 2
    p = bootstrap.p_values(values[groups], groups, n_resamples=1000)
    assert (p < 0.05).mean() == pytest.approx(0.06, abs=0.035)
    assert (bootstrap.p_values(values[groups], n_resamples=500) < 0.05).mean() > 0.1


def test_p_values_at_the_ends():
    p = bootstrap.p_values(np.column_stack([np.zeros(9), np.ones(9)]), n_resamples=99)
    assert p.tolist() == [1, 2 / 100]


def test_bad_input_is_named():
    with pytest.raises(InputError, match="no rows"):
        bootstrap.intervals(np.zeros((0, 1)))
    with pytest.raises(InputError, match="2 groups for 3 rows"):
        bootstrap.intervals(np.zeros((3, 1)), [0, 1])


def test_auc_within_strata_is_the_mean_over_pairs_of_the_same_stratum():
    rng = np.random.default_rng(8)
    scores, correct = rng.random(40).round(1), (rng.random(40) < 0.5).astype(float)
    strata = np.arange(40) % 3
    ordered, pairs = 0.0, 0
    for i in np.flatnonzero(correct == 1):
        for j in np.flatnonzero((correct == 0) & (strata == strata[i])):
            ordered += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
            pairs += 1
    [found] = bootstrap.auc_intervals(
        scores[:, None], correct[:, None], n_resamples=5, strata=strata
    )
    assert found.estimate == pytest.approx(ordered / pairs)


def test_levels_that_differ_between_strata_are_no_failure_to_rank():
    """Cross-validated constants: where right answers are frequent, the fold's own rate is low."""
    correct = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=float)
    strata = np.repeat([0, 1], 4)
    scores = np.where(strata == 0, 0.25, 0.75)
    [pooled] = bootstrap.auc_intervals(scores[:, None], correct[:, None], n_resamples=5)
    [within] = bootstrap.auc_intervals(
        scores[:, None], correct[:, None], n_resamples=5, strata=strata
    )
    assert pooled.estimate == 0.25
    assert within.estimate == 0.5


def test_a_centred_interval_holds_a_statistic_that_noise_can_only_raise():
    values = np.random.default_rng(9).normal(size=(200, 30))

    def size(means):
        return np.abs(means).sum(axis=1, keepdims=True)

    [plain] = bootstrap.intervals(values, None, size)
    [centred] = bootstrap.intervals(values, None, size, centred=True)
    assert plain.lower > plain.estimate
    assert centred.lower < centred.estimate < centred.upper
    assert centred.upper - centred.lower == pytest.approx(plain.upper - plain.lower)


@pytest.mark.parametrize("n_resamples", [2, 250, 251, 501])
def test_a_statistic_sees_a_single_row_only_of_the_sample_itself(n_resamples):
    seen = []

    def spy(means):
        seen.append(len(means))
        return means

    bootstrap.intervals(np.arange(9.0)[:, None], statistic=spy, n_resamples=n_resamples)
    assert seen.count(1) == 1
    assert sum(seen) == n_resamples + 1


def test_what_takes_long_is_resampled_at_most_so_often():
    assert bootstrap.few(100) == 100 and bootstrap.few(10_000) == bootstrap.FEW
