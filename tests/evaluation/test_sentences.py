import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation import sentences
from prefill_router.evaluation.results import results


def row(estimate, lower, upper, metric="gap closed", **fields):
    bounds = {"estimate": estimate, "lower": lower, "upper": upper}
    return results([{"metric": metric, "router": "trunk", "n": 3000} | bounds | fields]).iloc[0]


def test_intervals_are_written_with_their_units():
    interval = row(0.4558, 0.421, 0.4904)
    assert sentences.format_interval(interval) == "45.6 % [42.1, 49.0]"
    assert sentences.format_interval(interval, "points") == "+45.6 points [+42.1, +49.0]"
    assert sentences.format_interval(interval, "value") == "0.456 [0.421, 0.490]"
    money = row(0.00000123, 0.000001, 0.000002)
    assert sentences.format_interval(money, "USD") == "0.00123 USD [0.001, 0.002]"
    small = row(0.0004, 0.00012, 0.0007)  # not zero, nor does it look so
    assert sentences.format_interval(small, "difference") == "+0.0004 [+0.0001, +0.0007]"
    assert sentences.format_interval(small, "points") == "+0.04 points [+0.01, +0.07]"
    either = row(0.0004, -0.0001, 0.0007)
    assert sentences.format_interval(either, "difference") == "+0.000 [-0.000, +0.001]"
    assert sentences.format_interval(interval, "difference") == "+0.456 [+0.421, +0.490]"
    assert sentences.format_interval(row(np.nan, np.nan, np.nan)) == "undefined"
    with pytest.raises(InputError, match="scale"):
        sentences.format_interval(interval, "percent")


@pytest.mark.parametrize(
    ("bounds", "higher", "says"),
    [
        ((0.01, 0.05), True, "a is better than b"),
        ((-0.05, -0.01), True, "a is worse than b"),
        ((-0.05, 0.01), True, "a is not distinguishable from b"),
        ((0.0, 0.05), True, "a is not distinguishable from b"),
        ((5e-19, 5e-19), False, "a is not distinguishable from b"),
        ((0.01, 0.05), False, "a is worse than b"),
        ((-0.05, -0.01), False, "a is better than b"),
        ((np.nan, np.nan), True, "a and b cannot be compared"),
    ],
)
def test_a_verdict_follows_from_the_interval_alone(bounds, higher, says):
    interval = row(float(np.mean(bounds)), *bounds)
    sentence = sentences.verdict(interval, "a", "b", "gap closed", higher_is_better=higher)
    assert sentence.startswith(says) and sentence.endswith(".")
    if not np.isnan(bounds[0]):
        assert f"{100 * bounds[0]:+.1f}, {100 * bounds[1]:+.1f}" in sentence


def test_the_headline_says_only_what_the_intervals_allow():
    saving = row(0.743, 0.72, 0.76, "cost saving")
    good = sentences.headline(row(0.456, 0.421, 0.49), saving)
    assert good == (
        "trunk closes 45.6 % [42.1, 49.0] of the gap between the best single target and the "
        "oracle, at a cost saving of 74.3 % [72.0, 76.0] against always asking the dearest target "
        "(n = 3,000 test queries, 95 % intervals)."
    )
    assert "not distinguishable" in sentences.headline(row(0.02, -0.01, 0.05))
    assert "does worse" in sentences.headline(row(-0.2, -0.3, -0.1))
    assert "saving" not in sentences.headline(row(0.2, 0.1, 0.3))
    assert "no headroom" in sentences.headline(row(np.nan, np.nan, np.nan))


def test_a_row_of_results_says_what_is_compared():
    found = row(0.03, 0.01, 0.05, "AUC", versus="b")
    assert sentences.verdict(found, corrected_p=0.01) == (
        "trunk is better than b in AUC (+3.0 points [+1.0, +5.0], 95 % interval; "
        "p = 0.0100 after Holm's correction)."
    )
    assert "not distinguishable from b" in sentences.verdict(found, corrected_p=0.06)
