from pathlib import Path

import numpy as np
import pytest
import tiny_models
import tiny_studies
from tiny_studies import label_table

from prefill_router.errors import InputError
from prefill_router.experiments.inputs import check_inputs
from prefill_router.experiments.study import Study

pytestmark = pytest.mark.usefixtures("own_artifacts")


def test_inputs_are_identified_by_what_they_hold(tmp_path):
    study = tiny_studies.study(tmp_path)
    before = check_inputs(study)
    assert check_inputs(Study(study.parameters)) == before
    assert set(before["encoders"]) == {str(tmp_path / n) for n in ("main", "other", "control")}
    tiny_models.save(tmp_path / "control", seed=9)
    prices = tmp_path / "prices.csv"
    prices.write_text(prices.read_text().replace("40.0", "41.0"))
    label_table(seed=3).to_csv(tmp_path / "labels.csv", index=False)
    after = check_inputs(Study(study.parameters))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"labels", "prices", "encoders"}
    same = before["encoders"].items() & after["encoders"].items()
    assert {name for name, _ in same} == {str(tmp_path / n) for n in ("main", "other")}
    embedded = check_inputs(tiny_studies.study(tmp_path / "b", embedding=str(tmp_path / "main")))
    assert str(tmp_path / "main") in embedded["encoders"]


def test_unknown_costs_are_found_before_any_prompt_is_read(tmp_path):
    study = tiny_studies.study(tmp_path / "a")
    path = Path(study.parameters.prices)
    path.write_text(path.read_text().replace("noisy", "noise"))
    with pytest.raises(InputError, match=rf"'noisy' is unknown; add it to {path}, .*'noise'"):
        check_inputs(study)
    table = label_table()
    table.loc[5, "output_tokens"] = np.nan
    study = tiny_studies.study(tmp_path / "b", table)
    with pytest.raises(InputError, match=r"neither output_tokens nor cost_usd .*'q5'"):
        check_inputs(study)
    check_inputs(tiny_studies.study(tmp_path / "b", table, prices=""))  # nobody asks for costs
    assert not study.store.root.exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"outer_folds": 500}, "more queries or fewer outer_folds"),
        ({"layers": [1, 99]}, r"main: layers \[1, 99\] must be one or more of 0\.\.3"),
        ({"max_tokens": 10**5}, r"(main|other): max_tokens is 100000; this model reads at most"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_found_before_any_prompt_is_read(tmp_path, values, said):
    study = tiny_studies.study(tmp_path, **values)
    with pytest.raises(InputError, match=said):
        check_inputs(study)
    assert not study.store.root.exists()


@pytest.mark.parametrize("places", [{"device": "spread"}, {"device": "cuda:7", "engine": "ray"}])
def test_devices_that_only_loading_or_a_cluster_has_are_no_obstacle(tmp_path, places):
    assert check_inputs(tiny_studies.study(tmp_path, **places))["encoders"]
