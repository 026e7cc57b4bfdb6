import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation.complete import complete

CORRECT = np.array([[1, 0], [np.nan, 1], [0, 0]])


def test_complete_rows_with_their_costs_and_groups():
    cost = np.arange(6.0).reshape(3, 2)
    found = complete(CORRECT, cost, ["b", "a", "b"])
    assert found.rows.tolist() == [True, False, True]
    assert found.correct.tolist() == [[1, 0], [0, 0]]
    assert found.cost.tolist() == [[0, 1], [4, 5]]
    assert found.groups.tolist() == ["b", "b"]
    assert found.codes.tolist() == [0, 0]
    assert found.costs([2.0, 3.0]).tolist() == [[2, 3], [2, 3]]
    assert found.costs(10 * cost).tolist() == [[0, 10], [40, 50]]


def test_what_is_not_given_is_none_and_each_query_its_own_group():
    found = complete(CORRECT)
    assert found.cost is None and found.groups is None
    assert found.codes.tolist() == [0, 1]


def test_no_complete_row_and_unknown_costs_are_errors():
    with pytest.raises(InputError, match="labelled for every target"):
        complete([[1.0, np.nan]])
    with pytest.raises(InputError, match="price"):
        complete([[1.0, 0.0]], [1.0, np.nan])
    with pytest.raises(InputError, match="price"):
        complete([[1.0, 0.0]]).costs([1.0, np.nan])
