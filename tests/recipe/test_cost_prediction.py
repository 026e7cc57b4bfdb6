import numpy as np
import pytest
import tiny_models
from random_labels import labels_of
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from prefill_router.labels.costs import Prices
from prefill_router.recipe.cost_prediction import (
    PENALTIES,
    CostModel,
    LengthModel,
    fit_costs,
    fit_lengths,
)


def test_the_mean_of_lognormal_lengths_is_found_without_bias():
    """exp(x + s^2 / 2) is the mean; exp of the mean logarithm would be a third too small."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 1)) * 0.5
    amounts = np.exp(3 + x + 0.8 * rng.normal(size=(6000, 1)))
    model = fit_lengths(x, amounts)
    predicted, truth = model.predict(x), np.exp(3 + x + 0.32)
    assert np.abs(predicted / truth - 1).mean() < 0.05
    assert predicted.mean() == pytest.approx(amounts.mean(), rel=0.04)


def test_smearing_is_the_mean_of_exponentials_of_held_out_residuals():
    rng = np.random.default_rng(1)
    X, groups = rng.normal(size=(200, 3)), np.arange(200) // 2
    y = np.exp(X @ [1, 0.5, 0] + 0.3 * rng.normal(size=200))
    model = fit_lengths(X, y[:, None], groups)
    candidates = []
    for penalty in PENALTIES:
        held = np.empty(200)
        for fit, rest in GroupKFold(5, shuffle=True, random_state=0).split(X, groups=groups):
            alpha = penalty * len(fit) * X[fit].var(axis=0).mean()  # see `RidgePath`
            held[rest] = Ridge(alpha=alpha).fit(X[fit], np.log(y[fit])).predict(X[rest])
        candidates.append(np.exp(np.log(y) - held).mean())
    assert np.abs(np.array(candidates) - model.smearing[0]).min() < 1e-9


def test_predictions_stay_within_what_was_seen():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1))
    amounts = np.column_stack([np.exp(X[:, 0] + 2), np.full(300, 5.0), np.zeros(300)])
    amounts[:10, 0] = np.nan
    model = fit_lengths(X, amounts)
    far = model.predict(np.array([[100.0], [-100.0]]))
    assert far[0, 0] == np.nanmax(amounts[:, 0]) and far[1, 0] == np.nanmin(amounts[:, 0])
    assert (far[:, 1] == 5).all() and (far[:, 2] == 0).all()


def test_tokens_are_priced_unless_only_costs_are_known():
    """Targets `a` and `b` have answers of 10 and of 30 tokens; only `a` has a price."""
    n, prices = 40, Prices({"a": 2e6}, {"a": 3e6})
    tokens, paid = (np.tile(each, (n, 1)) for each in ([10.0, 30.0], [np.nan, 0.25]))
    labels = labels_of(targets=("a", "b"), output_tokens=tokens, cost_usd=paid)

    def costs_of_one_and_four_tokens():
        model = fit_costs(labels, prices, np.zeros((n, 1)), np.arange(20), np.ones(n))
        inputs = model.input_tokens(["w1", "w1"], np.array([1, 4]))
        return model.expected(np.zeros((2, 1)), inputs)

    priced = [[2 * 1 + 3 * 10, 0.25], [2 * 4 + 3 * 10, 0.25]]
    np.testing.assert_allclose(costs_of_one_and_four_tokens(), priced)
    labels.cost_usd[:] = 0.25  # stated, too: tokens tell queries apart
    np.testing.assert_allclose(costs_of_one_and_four_tokens(), priced)
    labels.output_tokens[3, 0] = np.nan  # then what was paid says more
    np.testing.assert_allclose(costs_of_one_and_four_tokens(), 0.25)


def test_a_targets_own_tokenizer_counts_its_input():
    own = tiny_models.byte_tokenizer().backend_tokenizer
    lengths = LengthModel(np.zeros((1, 2)), np.zeros(2), np.ones(2), np.zeros((2, 2)))
    model = CostModel(lengths, np.ones(2), np.zeros(2), {1: own})
    queries = ["abc", [{"role": "system", "content": "ab"}, {"role": "user", "content": "cde"}]]
    counts = model.input_tokens(queries, np.array([7, 9]))
    assert counts.tolist() == [[7, 3], [9, 6]]  # bytes; messages are joined by a line break
    assert model.expected(np.zeros((2, 1)), counts).tolist() == [[7, 3], [9, 6]]
