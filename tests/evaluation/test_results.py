import json

import numpy as np
import pandas as pd
import pytest

from prefill_router.errors import InputError
from prefill_router.evaluation import results as module
from prefill_router.evaluation.results import Quantity, one, results, select


@pytest.fixture
def frame():
    rows = [
        vars(Quantity("AUC", "r", target=target, n=7))
        | {"estimate": 0.75, "lower": 0.5, "upper": 1}
        for target in ("", "a", "b")
    ]
    rows += [{"metric": "AUC", "router": "r", "versus": "s", "estimate": 0.1, "split": "test"}]
    rows += [module.counted(Quantity("J", encoder="e", layer=layer), layer / 4) for layer in (0, 3)]
    return results(rows)


def test_rows_have_all_columns_and_fixed_types(frame):
    assert list(frame) == module.COLUMNS == list(results())
    assert (frame.dtypes == results().dtypes).all()
    assert frame["layer"].tolist()[-2:] == [0, 3] and frame["layer"].isna().sum() == 4
    assert frame["n"].tolist()[:3] == [7, 7, 7] and frame["router"].iloc[-1] == ""
    assert np.isnan(frame["lower"].iloc[-1])


def test_the_only_row_is_found_by_what_it_is_about(frame):
    assert one(frame, metric="AUC", router="r").estimate == 0.75
    assert one(frame, metric="AUC", versus="s").estimate == 0.1
    assert one(frame, metric="J", layer=3).estimate == 0.75
    assert len(select(frame, metric="AUC", target=None)) == 3
    assert len(select(frame, target=["a", "b"])) == 2
    for where, message in (
        ({"router": "other"}, "no result of router='other'"),
        ({"metric": "J"}, "2 results of metric='J'; say which layer"),
        ({"layers": 3}, r"Results have no column 'layers'.*layer"),
    ):
        with pytest.raises(InputError, match=message):
            one(frame, **where)
    with pytest.raises(InputError, match=r"no column 'roter'.*router"):
        results([{"metric": "AUC", "roter": "r"}])
    for wrong in ({}, {"metric": "AUC", "layer": 1.5}, {"metric": "AUC", "n": 10**30}):
        with pytest.raises(InputError, match=r"no metric|not a value of its column"):
            results([{"estimate": 0.5} | wrong])


def test_results_are_written_and_read_back(frame, tmp_path):
    path = tmp_path / "metrics.json"
    module.write_metrics(path, frame)
    held = json.loads(path.read_text())
    assert held["version"] == 2 and held["rows"][-1]["lower"] is None
    assert "layer" not in held["rows"][0] and held["rows"][-1]["layer"] == 3
    pd.testing.assert_frame_equal(module.read_metrics(path), frame)
    path.write_text("[]")
    with pytest.raises(InputError, match="version 1, not 2; make them anew"):
        module.read_metrics(path)
