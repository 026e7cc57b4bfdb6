import pandas as pd
import pytest
import yaml

from prefill_router.config import validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import one, results, write_metrics
from prefill_router.experiments.published import PUBLISHED, publish
from prefill_router.experiments.real_pools import (
    CHAPTER,
    POOLS,
    pool_rows,
    published_pools,
    settings_table,
)
from prefill_router.project import project_root
from prefill_router.storage import write_json
from prefill_router.validation import read_mapping

ROWS = results(
    {"metric": metric, "router": router, "target": target, "split": split, "estimate": 0.1, "n": 9}
    for metric, router, target, split in (
        ("gap closed", "SharedTrunkNet", "", "test"),
        ("gap closed", "single target", "a", "test"),
        ("gap closed", "SharedTrunkNet", "", "validation"),
        ("ECE", "SharedTrunkNet", "", "test"),
    )
).assign(lower=0.0, upper=0.2)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("prefill_router.experiments.published.project_root", lambda: tmp_path)
    run = tmp_path / "runs" / "zeroeval"
    experiment = (project_root() / "experiments" / "zeroeval.yaml").read_text()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "zeroeval.yaml").write_text(experiment)
    given = validate(
        yaml.safe_load(experiment)
        | {"encoder": "/mine/m", "embedding": "/mine/m", "run_dir": "runs/x"}
    )
    kept = dict.fromkeys(("code", "versions", "machine", "labels"), "x")
    kept |= {"seconds": {CHAPTER: 90.0}, "encoders": {"/mine/m": "hash"}}
    write_json(run / "manifest.json", kept | {"parameters": given.model_dump(mode="json")})
    write_metrics(run / "metrics" / f"{CHAPTER}.json", ROWS)
    publish(run)
    return tmp_path


def test_pools_are_read_and_the_missing_ones_say_how_to_run_them(root):
    pools, missing = published_pools(root)
    assert list(pools) == ["zeroeval"]
    pd.testing.assert_frame_equal(pools["zeroeval"], ROWS)
    assert len(missing) == len(POOLS) - 1
    assert "experiments/mmlu_pro.yaml" in missing[0]
    assert "prefill-router publish runs/mmlu_pro." in missing[0]


def test_every_pool_has_an_experiment_that_asks_its_chapter_in_full():
    for name in POOLS:
        assert read_mapping(project_root() / "experiments" / f"{name}.yaml")["full"] == [8, 13]
    assert (project_root() / "notebooks" / f"{CHAPTER}.ipynb").exists()


def test_settings_name_the_encoder_as_the_experiment_does(root):
    [line] = settings_table(root, ["zeroeval"]).to_dict("records")
    assert line["encoder"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert line["minutes of this chapter"] == 1.5
    assert (line["outer folds"], line["networks trained, kept"]) == (5, "10, 5")
    assert settings_table(root, []).empty


def test_an_altered_pool_is_refused(root):
    path = root / PUBLISHED / "zeroeval" / f"{CHAPTER}.json"
    path.write_text(path.read_text().replace("0.1", "0.9"))
    with pytest.raises(InputError, match="not what was published"):
        published_pools(root)


def test_rows_that_are_checked_name_their_pool():
    row = one(pool_rows({"zeroeval": ROWS}), target="ZeroEval")
    assert (row.router, row.estimate) == ("SharedTrunkNet", 0.1)


def test_a_run_that_did_not_ask_a_chapter_says_so(root):
    pools, missing = published_pools(root, "13_what_it_promises")
    assert pools == {}
    assert len(missing) == len(POOLS)
    assert "ZeroEval: no results of chapter 13 are published." in missing[-1]


def test_where_no_pool_is_published_there_are_no_rows():
    assert len(pool_rows({})) == 0
