import pandas as pd
import pytest

from prefill_router.config import project_root, validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import one, results, write_metrics
from prefill_router.experiments import published as it
from prefill_router.storage import read_json, write_json
from prefill_router.validation import read_mapping

HASHES = {"/mine/m": "hash"}
ROWS = results(
    {"metric": metric, "router": router, "target": target, "split": split, "estimate": 0.1, "n": 9}
    for metric, router, target, split in (
        ("gap closed", "SharedTrunkNet", "", "test"),
        ("gap closed", "single target", "a", "test"),
        ("gap closed", "SharedTrunkNet", "", "validation"),
        ("ECE", "/mine/m", "", "test"),
    )
).assign(lower=0.0, upper=0.2)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A project of the test's own, with one experiment."""
    monkeypatch.setattr(it, "project_root", lambda: tmp_path)
    (tmp_path / "experiments").mkdir()
    for name in (*it.POOLS, *it.DECODED):
        experiment = (project_root() / "experiments" / f"{name}.yaml").read_text()
        (tmp_path / "experiments" / f"{name}.yaml").write_text(experiment)
    return tmp_path


def finished(root, name="zeroeval", **given):
    """A run directory as `run_experiment` leaves it, its encoder at a path of this machine."""
    run_dir = root / "runs" / name
    for notebook in ("06_cost_aware_routing", it.REAL, it.IN_USE):
        write_metrics(run_dir / "metrics" / f"{notebook}.json", ROWS)
    known = dict.fromkeys(("code", "versions", "machine", "labels", "prices"), "x")
    values = read_mapping(root / "experiments" / f"{name}.yaml")
    values |= {"encoder": "/mine/m", "embedding": "/mine/m", "run_dir": f"/runs/{name}"} | given
    parameters = validate(values).model_dump(mode="json")
    known |= {"seconds": {it.REAL: 90.0}, "encoders": HASHES, "parameters": parameters}
    write_json(run_dir / "manifest.json", known)
    return run_dir


@pytest.mark.parametrize("name, chapter", [("zeroeval", it.IN_USE), ("zeroeval_smollm2", it.REAL)])
def test_what_other_books_show_is_published_under_public_names(root, name, chapter):
    run_dir = finished(root, name, n_seeds=7, truncation="left", encoders=["/mine/other"])
    out = it.publish(run_dir).parent
    assert {path.stem for path in out.iterdir()} == {chapter, "manifest"}
    assert "/mine/m" not in "".join(path.read_text() for path in out.iterdir())
    public = read_mapping(root / "experiments" / f"{name}.yaml")
    manifest = read_json(out / "manifest.json")
    assert manifest["encoders"] == {public["embedding"]: "hash"}
    given = {n: public[n] for n in ("encoder", "embedding", "encoders")}
    wanted = given | {"n_seeds": 7, "truncation": "left"}
    assert manifest["parameters"].items() >= wanted.items()
    expected = ROWS.replace({"/mine/m": public["embedding"]})
    pd.testing.assert_frame_equal(it.read_published(out, chapter), expected)


def test_what_was_altered_lost_or_is_no_pool_s_is_refused(root):
    path = it.publish(finished(root)).parent / f"{it.IN_USE}.json"
    path.write_text(path.read_text().replace("0.2", "0.3"))
    for spoil in (lambda: None, path.unlink):
        spoil()
        with pytest.raises(InputError, match=rf"{it.IN_USE}\.json is missing or not what was publ"):
            it.published_pools(root, it.IN_USE)
    with pytest.raises(InputError, match=r"pool 'zeroeva' is unknown\. Did you mean 'zeroeval'"):
        it.publish(root / "zeroeva")
    (root / "runs/zeroeval/manifest.json").unlink()
    with pytest.raises(InputError, match="no finished run"):
        it.publish(root / "runs/zeroeval")


def test_pools_are_shown_as_published_and_the_missing_ones_say_how_to_run_them(root):
    it.publish(finished(root, "zeroeval_smollm2"))
    pools, missing = it.published_pools(root)
    assert list(pools) == ["zeroeval_smollm2"]
    assert len(missing) == len(it.DECODED) - 1
    assert "experiments/mmlu_pro_smollm2.yaml" in missing[0]
    assert "prefill-router publish runs/mmlu_pro_smollm2." in missing[0]
    row = one(it.pool_rows(pools), split="ZeroEval", metric="gap closed")
    assert (row.router, row.estimate) == ("SharedTrunkNet", 0.1)
    [line] = it.settings_table(root, list(pools)).to_dict("records")
    said = {"encoder": "HuggingFaceTB/SmolLM2-135M-Instruct", "outer folds": 5}
    assert line.items() >= said.items()
    assert it.settings_table(root, []).empty and it.pool_rows({}).empty


def test_all_pools_are_published_and_can_be_run_again(monkeypatch):
    monkeypatch.undo()
    root = project_root()
    for notebook in (it.REAL, it.IN_USE):
        assert (root / "notebooks" / f"{notebook}.ipynb").exists()
        pools, missing = it.published_pools(root, notebook)
        assert list(pools) == list(it.DECODED if notebook == it.REAL else it.POOLS) and not missing
    for name in (*it.POOLS, *it.DECODED):
        experiment = validate(read_mapping(root / "experiments" / f"{name}.yaml"))
        said = read_json(root / it.PUBLISHED / name / "manifest.json")["parameters"]
        assert said["targets"] == experiment.targets
