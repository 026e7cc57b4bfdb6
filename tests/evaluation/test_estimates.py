import json

import numpy as np
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation.estimates import (
    Estimate,
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
