import pytest

from prefill_router.config import validate
from prefill_router.errors import InputError
from prefill_router.evaluation.estimates import Estimate, write_metrics
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

ROWS = [
    Estimate("gap closed", "SharedTrunkNet", "", "test", 0.1, 0.0, 0.2, 9),
    Estimate("gap closed", "single target", "a", "test", 0.1, 0.0, 0.2, 9),
    Estimate("gap closed", "SharedTrunkNet", "", "validation", 0.3, 0.2, 0.4, 9),
    Estimate("ECE", "SharedTrunkNet", "", "test", 0.1, 0.0, 0.2, 9),
]


@pytest.fixture
def root(tmp_path):
    run = tmp_path / "runs" / "zeroeval"
    named = read_mapping(project_root() / "experiments" / "zeroeval.yaml")
    given = validate(named | {"encoder": "/mine/m", "embedding": "/mine/m", "run_dir": "runs/x"})
    kept = dict.fromkeys(("code", "versions", "machine", "labels"), "x")
    kept |= {"seconds": {CHAPTER: 90.0}, "encoders": {"/mine/m": "hash"}}
    write_json(run / "manifest.json", kept | {"parameters": given.model_dump(mode="json")})
    write_metrics(run / "metrics" / f"{CHAPTER}.json", ROWS)
    publish(run, tmp_path / PUBLISHED / "zeroeval", named)
    return tmp_path


def test_pools_are_read_and_the_missing_ones_say_how_to_run_them(root):
    pools, missing = published_pools(root)
    assert pools == {"zeroeval": ROWS}
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
    [row] = pool_rows({"zeroeval": ROWS})
    assert (row.router, row.estimate) == ("ZeroEval: SharedTrunkNet", 0.1)


def test_a_run_that_did_not_ask_a_chapter_says_so(root):
    pools, missing = published_pools(root, "13_what_it_promises")
    assert pools == {}
    assert len(missing) == len(POOLS)
    assert "ZeroEval: the published run has no results of chapter 13." in missing[-1]
