from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import pytest
import random_labels

from prefill_router.errors import InputError
from prefill_router.labels import costs as module
from prefill_router.labels.costs import Prices, expected_costs, load_prices, query_costs

PRICES = Prices({"cheap": 1.0, "dear": 10.0}, {"cheap": 2.0, "dear": 40.0})
INPUT = np.array([100, 200, 300, 400])
TOKENS = np.array([[10.0, 1], [20, 2], [60, 9], [1000, 1000]])


def labels_of(tokens=TOKENS, **fields):
    return random_labels.labels_of(targets=("cheap", "dear"), output_tokens=tokens, **fields)


def changed(array, cells):
    array = array.astype(float)
    for place, value in cells.items():
        array[place] = value
    return array


def test_query_costs_against_a_loop():
    costs = query_costs(labels_of(), PRICES, INPUT)
    for i in range(4):
        for k, name in enumerate(("cheap", "dear")):
            dollars = INPUT[i] * PRICES.input[name] + TOKENS[i, k] * PRICES.output[name]
            assert costs[i, k] == pytest.approx(dollars / 1e6, rel=1e-12)


def test_stated_costs_win_and_alone_need_no_prices():
    cost = np.where(np.arange(8) == 2, 0.5, nan).reshape(4, 2)
    plain, costs = (query_costs(labels_of(cost_usd=c), PRICES, INPUT) for c in (cost * nan, cost))
    np.testing.assert_array_equal(costs, np.where(np.isnan(cost), plain, 0.5))
    cost = np.arange(8.0).reshape(4, 2)
    labels = labels_of(tokens=np.full((4, 2), nan), cost_usd=cost)
    np.testing.assert_array_equal(query_costs(labels, None, INPUT), cost)
    expected = expected_costs(labels, None, INPUT, np.array([0, 1, 3]))
    np.testing.assert_array_equal(expected, [[2.0, 3.0]] * 4)
    never = replace(labels, correct=labels.correct * [1, nan])
    with pytest.raises(InputError, match="'dear': the length"):
        module.cost_basis(never, None)


def test_expected_costs_read_tokens_before_stated_costs():
    stated, train = np.full((4, 2), 0.5), np.arange(3)
    by_tokens = expected_costs(labels_of(), PRICES, INPUT, train)
    assert len(set(by_tokens[:, 0])) == 4  # queries of one target differ
    costs = expected_costs(labels_of(cost_usd=stated), PRICES, INPUT, train)
    np.testing.assert_array_equal(costs, by_tokens)
    only_dear = Prices({"dear": 10.0}, {"dear": 40.0})
    costs = expected_costs(labels_of(cost_usd=stated), only_dear, INPUT, train)
    np.testing.assert_array_equal(costs, np.column_stack([np.full(4, 0.5), by_tokens[:, 1]]))
    gappy = changed(TOKENS, {(0, 1): nan})
    costs = expected_costs(labels_of(gappy, cost_usd=stated), PRICES, INPUT, train)
    np.testing.assert_array_equal(costs, np.column_stack([by_tokens[:, 0], np.full(4, 0.5)]))


def test_an_unknown_price_is_an_error_and_never_0():
    prices = Prices({"cheep": 1.0, "dear": 1.0}, {"cheep": 1.0, "dear": 1.0})
    for known, hint in ((prices, "Did you mean 'cheep'"), (None, "prices=FILE")):
        for costs in (query_costs, lambda *given: expected_costs(*given, np.arange(3))):
            with pytest.raises(InputError, match=f"price of target 'cheap' is unknown.*{hint}"):
                costs(labels_of(), known, INPUT)


def test_an_unknown_length_is_an_error_unless_never_asked():
    tokens = changed(TOKENS, {(2, 1): nan})
    with pytest.raises(InputError, match=r"'dear'.*1 answers \(of query 'q2'"):
        query_costs(labels_of(tokens), PRICES, INPUT)
    never = changed(np.ones((4, 2)), {(2, 1): nan})
    costs = query_costs(labels_of(tokens, correct=never), PRICES, INPUT)
    assert np.argwhere(np.isnan(costs)).tolist() == [[2, 1]]
    with pytest.raises(InputError, match=r"'dear'.*output_tokens.*none of its training answers"):
        expected_costs(labels_of(tokens), PRICES, INPUT, np.array([2]))


def test_expected_costs_take_the_median_length_of_training_rows_alone():
    costs = expected_costs(labels_of(), PRICES, INPUT, np.arange(3))
    np.testing.assert_allclose(costs[:, 0], (INPUT * 1 + 20 * 2) / 1e6)
    np.testing.assert_allclose(costs[:, 1], (INPUT * 10 + 2 * 40) / 1e6)
    train, cost = np.array([0, 2]), np.full((4, 2), nan)
    tokens = TOKENS, changed(TOKENS, {1: 7e7, 3: nan})
    stated = cost, changed(cost, {1: 9.0, 3: 9.0})
    labels = [labels_of(t, cost_usd=c) for t, c in zip(tokens, stated, strict=True)]
    np.testing.assert_array_equal(*(expected_costs(of, PRICES, INPUT, train) for of in labels))


@pytest.mark.parametrize("lengths", [INPUT[:3], INPUT[:, None], INPUT - 101, INPUT * nan])
def test_bad_input_lengths(lengths):
    with pytest.raises(InputError, match="n_input_tokens"):
        query_costs(labels_of(), PRICES, lengths)


def price_file(tmp_path, *rows, header="model,usd_per_m_input,usd_per_m_output,as_of,status"):
    path = tmp_path / "prices.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_load_prices(tmp_path):
    path = price_file(tmp_path, "m1,0.075,0.30,2024-10,list", "m2,0,5,2024-10,hosted")
    prices = load_prices(path)
    assert prices == Prices({"m1": 0.075, "m2": 0.0}, {"m1": 0.3, "m2": 5.0}, "2024-10")
    short = pd.DataFrame([["m1", 1, 2]], columns=["model", "usd_per_m_input", "usd_per_m_output"])
    assert load_prices(short) == Prices({"m1": 1.0}, {"m1": 2.0}, "")
    with pytest.raises(InputError, match="no column 'usd_per_m_input', which a price table"):
        load_prices(short.rename(columns={"usd_per_m_input": "usd"}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("m1,1,2,,", "row 2: 'm1' has a price already"),
        ("m2,-1,2,,", r"row 2 \(model 'm2'\): usd_per_m_input is '-1'"),
        ("m2,1,,,", "usd_per_m_output is ''"),
        (",1,2,,", "row 2 .*: model is ''; it must be the name"),
    ],
)
def test_bad_prices(tmp_path, row, message):
    with pytest.raises(InputError, match=message) as caught:
        load_prices(price_file(tmp_path, "m1,1,2,,", row))
    assert "prices.csv" in str(caught.value)
