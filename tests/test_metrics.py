import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss, roc_auc_score

from prefill_router import metrics
from prefill_router.errors import InputError

NAN = np.nan


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    p = rng.random((200, 3)).round(2)
    correct = (rng.random((200, 3)) < p).astype(float)
    correct[rng.random((200, 3)) < 0.3] = NAN
    return p, correct


def test_auc_and_brier_equal_sklearn_on_the_labelled_rows(problem):
    p, correct = problem
    for k in range(3):
        seen = ~np.isnan(correct[:, k])
        y, s = correct[seen, k], p[seen, k]
        assert metrics.auc(p, correct)[k] == pytest.approx(roc_auc_score(y, s))
        assert metrics.brier(p, correct)[k] == pytest.approx(brier_score_loss(y, s))


def test_a_target_of_one_class_or_without_labels_has_no_auc_and_is_not_averaged():
    p = np.array([[0.2, 0.3, 0.1], [0.8, 0.4, 0.2]])
    correct = np.array([[0, 1, NAN], [1, 1, NAN]])
    assert metrics.auc(p, correct).tolist() == pytest.approx([1, NAN, NAN], nan_ok=True)
    assert np.isnan(metrics.brier(p, correct)[2])
    assert np.isnan(metrics.expected_calibration_error(p, correct)[2])
    assert metrics.macro(metrics.auc(p, correct)) == 1
    assert np.isnan(metrics.macro([NAN, NAN]))


def test_reliability_curve_and_ece_golden():
    p = np.array([[0.1], [0.2], [0.8], [0.9], [0.5]])
    correct = np.array([[0], [1], [1], [1], [NAN]])
    # bins {.1, .2} and {.8, .9}: |.15 - .5| and |.85 - 1|, half the mass each
    assert metrics.expected_calibration_error(p, correct, 2)[0] == pytest.approx(0.25)
    curve = metrics.reliability_curve(p, correct, 2)
    assert curve.predicted.tolist() == pytest.approx([0.15, 0.85])
    assert curve.observed.tolist() == [0.5, 1] and curve.count.tolist() == [2, 2]
    for wrong, labels, message in ((p, correct[1:], "shape"), (p * NAN, correct, "NaN")):
        with pytest.raises(InputError, match=message):
            metrics.auc(wrong, labels)


def test_equal_mass_bins_hold_equally_many_and_never_split_a_tie():
    p = np.random.default_rng(1).permutation(45) / 45
    assert np.bincount(metrics.equal_mass_bins(p, 15)).tolist() == [3] * 15
    tied = metrics.equal_mass_bins(np.array([0.3, 0.5, 0.5, 0.5, 0.5, 0.7]), 3)
    assert len(set(tied[1:5])) == 1
    correct = np.array([[1.0], [0], [0], [1], [1], [0], [1], [1]])
    calibrated = np.full((8, 1), correct.mean())
    assert metrics.expected_calibration_error(calibrated, correct)[0] == pytest.approx(0)


def test_reliability_curve_counts_all_labelled_cells(problem):
    p, correct = problem
    curve = metrics.reliability_curve(p, correct)
    seen = ~np.isnan(correct)
    assert curve.count.sum() == seen.sum()
    assert np.average(curve.observed, weights=curve.count) == pytest.approx(correct[seen].mean())
    assert np.average(curve.predicted, weights=curve.count) == pytest.approx(p[seen].mean())
    assert (np.diff(curve.predicted) > 0).all()


def test_zones_golden():
    correct = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, NAN]])
    zones = metrics.zones(correct)
    assert (zones.all_right, zones.some_right, zones.all_wrong, zones.n) == (0.25, 0.5, 0.25, 4)
    assert metrics.zones(np.array([[NAN, 1.0]])).n == 0


def test_agreement_equals_a_loop(problem):
    _, correct = problem
    table = metrics.agreement(correct)
    for a in range(3):
        for b in range(3):
            both = ~np.isnan(correct[:, a]) & ~np.isnan(correct[:, b])
            assert table[a, b] == pytest.approx((correct[both, a] == correct[both, b]).mean())
    assert np.isnan(metrics.agreement(np.array([[1, NAN], [NAN, 0]]))[0, 1])


def test_gap_closed_and_cost_saving():
    assert metrics.gap_closed(0.75, 0.5, 1.0) == 0.5
    assert np.isnan(metrics.gap_closed(0.75, 0.75, 0.75))
    many = metrics.gap_closed(np.array([0.5, 0.4]), 0.5, np.array([0.9, 0.7]))
    assert many.tolist() == pytest.approx([0, -0.5])
    assert metrics.cost_saving(1.0, 4.0) == 0.75
    assert np.isnan(metrics.cost_saving(0.0, 0.0)) and np.isnan(metrics.ratio(1, -1))


def test_the_calibration_error_by_chance_is_that_of_answers_drawn_from_p():
    rng = np.random.default_rng(0)
    p = np.column_stack([rng.random(900), rng.beta(5, 1, 900)])
    drawn = [
        metrics.expected_calibration_error(p, (rng.random(p.shape) < p).astype(float))
        for _ in range(300)
    ]
    expected = metrics.chance_calibration_error(p, np.zeros(p.shape))
    np.testing.assert_allclose(expected, np.mean(drawn, axis=0), rtol=0.03)
    missing = np.column_stack([np.full(900, NAN), np.zeros(900)])
    assert np.isnan(metrics.chance_calibration_error(p, missing)[0])


@given(arrays(float, (5, 4), elements=st.floats(0, 1)), st.integers(0, 3**20 - 1))
def test_pairwise_brier_is_the_mean_over_pairs_and_blind_to_what_targets_share(p, digits):
    Y = np.array([0, 1, NAN])[[digits // 3**i % 3 for i in range(20)]].reshape(5, 4)
    j, k = np.triu_indices(4, k=1)
    squares = ((p[:, j] - p[:, k]) - (Y[:, j] - Y[:, k])) ** 2
    brute = metrics.macro(squares)  # NaN where no pair is labelled
    assert metrics.pairwise_brier(p, Y) == pytest.approx(brute, nan_ok=True)
    assert metrics.pairwise_brier(p + 0.3, Y) == pytest.approx(brute, nan_ok=True)
