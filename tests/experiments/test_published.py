import pandas as pd
import pytest

from prefill_router.config import PLACES, project_root, validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import one, results, select, write_metrics
from prefill_router.experiments import published as it
from prefill_router.experiments.all_layers import CONCATENATED, MIXED
from prefill_router.experiments.layers import SPEARMAN
from prefill_router.experiments.primary import STATES
from prefill_router.experiments.real_labels import UNTRAINED
from prefill_router.storage import read_json, write_json
from prefill_router.validation import read_mapping

NEEDED = [("gap closed", router) for router in (STATES, MIXED.name, CONCATENATED.name, UNTRAINED)]
NEEDED += [(SPEARMAN, "J"), ("ECE", "calibrated")]
HASHES = {"mine/m": "hash"}
ROWS = results(
    {"metric": metric, "router": router, "target": target, "split": split, "estimate": 0.1, "n": 9}
    for metric, router, target, split in (
        ("gap closed", "SharedTrunkNet", "", "test"),
        ("gap closed", "single target", "a", "test"),
        ("gap closed", "SharedTrunkNet", "", "validation"),
        ("ECE", "mine/m", "", "test"),
    )
).assign(lower=0.0, upper=0.2)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A project of the test's own, with one experiment."""
    monkeypatch.setattr(it, "project_root", lambda: tmp_path)
    (tmp_path / "experiments").mkdir()
    for name in it.POOLS:
        experiment = (project_root() / "experiments" / f"{name}.yaml").read_text()
        (tmp_path / "experiments" / f"{name}.yaml").write_text(experiment)
    return tmp_path


def finished(root, name="zeroeval", **given):
    """A run directory as `run_experiment` leaves it, its encoder at a path of this machine."""
    run_dir = root / "runs" / name
    for notebook in ("06_cost_aware_routing", it.REAL):
        write_metrics(run_dir / "metrics" / f"{notebook}.json", ROWS)
    known = dict.fromkeys(("versions", "machine", "labels", "prices"), "x")
    known["code"] = {"version": "1", "stages": {}}
    values = read_mapping(root / "experiments" / f"{name}.yaml")
    values |= {"run_dir": f"/runs/{name}"} | given
    parameters = validate(values).model_dump(mode="json")
    known |= {"seconds": {it.REAL: 90.0}, "encoders": HASHES, "parameters": parameters}
    write_json(run_dir / "manifest.json", known)
    return run_dir


def test_what_other_books_show_is_published_under_public_names(root):
    """Whatever lies on this disk, at an absolute or a relative path, has the experiment's name."""
    (root / "mine" / "m").mkdir(parents=True)
    (root / "mine" / "other").mkdir()
    mine = {"encoder": str(root / "mine/m"), "embedding": "mine/m", "prices": ""}
    public = read_mapping(root / "experiments" / "zeroeval.yaml")
    encoders = ["mine/other", public["encoders"][1]]
    run_dir = finished(root, "zeroeval", encoders=encoders, **mine)
    out = it.publish(run_dir).parent
    assert {path.stem for path in out.iterdir()} == {it.REAL, "manifest"}
    assert "mine/m" not in "".join(path.read_text() for path in out.iterdir())
    manifest = read_json(out / "manifest.json")
    assert manifest["encoders"] == {public["embedding"]: "hash"}
    wanted = {n: public[n] for n in ("encoder", "embedding", "encoders")}
    assert manifest["parameters"].items() >= wanted.items()
    expected = ROWS.replace({"mine/m": public["embedding"]})
    pd.testing.assert_frame_equal(it.read_published(out), expected)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"n_seeds": 7}, r"not the run of experiments/zeroeval.yaml; it differs in n_seeds\."),
        ({"encoders": []}, "differs in encoders"),
        ({"encoder": "hub/other"}, "differs in encoder"),
        ({}, "mine/m: this run read other weights than .*mmlu_pro/manifest.json; give encoders"),
    ],
)
def test_another_run_than_the_experiment_s_is_not_published(root, given, said):
    first = it.publish(finished(root, "mmlu_pro"))
    known = read_json(first)
    write_json(first, known | {"encoders": {"mine/m": "other" if not given else "hash"}})
    with pytest.raises(InputError, match=said):
        it.publish(finished(root, "zeroeval", **given))
    assert not (root / it.PUBLISHED / "zeroeval").exists()


def test_what_was_altered_lost_or_is_no_pool_s_is_refused(root):
    path = it.publish(finished(root)).parent / f"{it.REAL}.json"
    path.write_text(path.read_text().replace("0.2", "0.3"))
    for spoil in (lambda: None, path.unlink):
        spoil()
        with pytest.raises(InputError, match=rf"{it.REAL}\.json is missing or not what was publ"):
            it.published_pools(root)
    with pytest.raises(InputError, match=r"zeroeva is no run of a pool .*: mmlu_pro, mmlu_pro_c"):
        it.publish(root / "zeroeva")
    (root / "runs/zeroeval/manifest.json").unlink()
    with pytest.raises(InputError, match="no finished run"):
        it.publish(root / "runs/zeroeval")


def test_pools_are_shown_as_published_and_the_missing_ones_say_how_to_run_them(root):
    it.publish(finished(root, "zeroeval"))
    pools, missing = it.published_pools(root)
    assert list(pools) == ["zeroeval"]
    assert len(missing) == len(it.POOLS) - 1
    assert "experiments/mmlu_pro.yaml" in missing[0]
    assert "prefill-router publish runs/mmlu_pro." in missing[0]
    row = one(it.pool_rows(pools), split="ZeroEval", metric="gap closed")
    assert (row.router, row.estimate) == ("SharedTrunkNet", 0.1)
    [line] = it.settings_table(root, list(pools)).to_dict("records")
    said = {"encoder": "HuggingFaceTB/SmolLM2-135M-Instruct", "outer folds": 5}
    assert line.items() >= said.items()
    assert it.settings_table(root, []).empty and it.pool_rows({}).empty


def test_all_pools_are_published_whole_and_as_their_experiments_say(monkeypatch):
    monkeypatch.undo()
    root = project_root()
    pools, missing = it.published_pools(root)
    assert list(pools) == list(it.POOLS) and not missing
    assert (root / "notebooks" / f"{it.REAL}.ipynb").exists()
    hashes = {}
    for name in it.POOLS:
        experiment = validate(read_mapping(root / "experiments" / f"{name}.yaml"))
        said = read_json(root / it.PUBLISHED / name / "manifest.json")
        wanted = experiment.model_dump(mode="json", exclude=PLACES)
        assert said["parameters"] == wanted
        assert set(said["seconds"]) == {it.REAL} and said["labels"]
        read = {experiment.encoder, experiment.embedding, experiment.untrained}
        assert set(said["encoders"]) == read | set(experiment.encoders)
        for encoder, weights in said["encoders"].items():  # one model has one name everywhere
            assert hashes.setdefault(encoder, weights) == weights
        assert {metric for metric, _ in NEEDED} <= set(pools[name]["metric"])
        for metric, router in NEEDED:
            assert len(select(pools[name], metric=metric, router=router, versus=None)), router
