import json

import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation.estimates import (
    Estimate,
    complete_rows,
    costs_of_rows,
    find,
    pick,
    to_frame,
    write_metrics,
)


def test_rows_are_written_with_null_for_what_is_undefined(tmp_path):
    rows = [
        Estimate("gap closed", "r", "", "test", np.nan, np.nan, np.nan, 5),
        Estimate("AUC", "r", "a", "test", 0.75, 0.5, 1.0, 7),
    ]
    write_metrics(tmp_path / "metrics.json", rows)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read[0]["estimate"] is None and read[0]["n"] == 5
    frame = to_frame(rows)
    assert frame.loc[1].to_dict() == read[1]
    assert list(to_frame([])) == list(frame)


def test_complete_rows_and_their_costs():
    correct = np.array([[1, 0], [np.nan, 1], [0, 0]])
    rows, labels = complete_rows(correct)
    assert rows.tolist() == [True, False, True] and labels.tolist() == [[1, 0], [0, 0]]
    cost = np.arange(6.0).reshape(3, 2)
    assert costs_of_rows(cost, rows, labels.shape).tolist() == [[0, 1], [4, 5]]
    assert costs_of_rows([2.0, 3.0], rows, labels.shape).tolist() == [[2, 3], [2, 3]]


def test_no_complete_row_and_unknown_costs_are_errors():
    with pytest.raises(InputError, match="labelled for every target"):
        complete_rows([[1.0, np.nan]])
    with pytest.raises(InputError, match="price"):
        costs_of_rows([1.0, np.nan], np.array([True]), (1, 2))


def test_a_row_is_found_by_all_that_names_it():
    rows = [
        Estimate("m", "r", target, split, 0.5, 0.4, 0.6, 9)
        for split in ("validation", "test")
        for target in ("a", "")
    ]
    assert find(rows, "m", "r") == rows[1]
    assert find(rows, "m", "r", split="test") == rows[3]
    assert pick(rows, "m", "r", "a", "test") == rows[2]
    assert find(rows, "m", "other") is None
    with pytest.raises(InputError, match="no result of m, other, a, test"):
        pick(rows, "m", "other", "a", "test")
