import math

import pandas as pd
import pytest
import tiny_models
import tiny_studies
import yaml

from prefill_router.config import project_root, validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import one, write_metrics
from prefill_router.evaluation.results import results as tidy
from prefill_router.experiments import published as it
from prefill_router.experiments.expectations import check
from prefill_router.experiments.study import Study
from prefill_router.storage import STAGES, read_json, write_json

ROWS = tidy(
    [
        {"metric": "J", "encoder": "e", "layer": 1, "target": "a", "estimate": 0.5, "n": 9},
        {"metric": "AUC", "router": "layer", "estimate": math.nan, "n": 0},
    ]
)
HEAVY = "08_heavy"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A project of the test's own, with what is published there."""
    for module in ("published", "study"):
        name = f"prefill_router.experiments.{module}.project_root"
        monkeypatch.setattr(name, lambda: tmp_path)
    return tmp_path


@pytest.fixture
def values(tmp_path):
    return tiny_studies.world(tmp_path / "world")


def finished(root, name, parameters, rows=ROWS, notebook=HEAVY, **known):
    """A run directory as `run_experiment` leaves it, with two chapters' results."""
    run_dir = root / "runs" / name
    for stem in ("06_light", notebook):
        write_metrics(run_dir / "metrics" / f"{stem}.json", rows)
    names = ("code", "versions", "machine", "labels", "prices", "seconds")
    kept = dict.fromkeys(names, "x") | known
    given = {"parameters": validate(parameters).model_dump(mode="json")}
    write_json(run_dir / "manifest.json", {"encoders": {}} | kept | given)
    return run_dir


def publish_full(root, values, **known):
    theirs = values | {"full": [8], "n_resamples": 500, "run_dir": "", "inner_folds": 3}
    known = it.identify(Study(validate(values))) | known
    return it.publish(finished(root, "any", theirs, **known))


def own(study):
    """Refuse to compute what is published."""
    pytest.fail("asked")


def test_a_sized_study_is_smaller_in_every_way_and_shares_the_store(study):
    large = study.like(n_seeds=8, n_resamples=900)
    small = it.sized(large, HEAVY)
    assert small.parameters == large.parameters.model_copy(update=it.REDUCED)
    assert small.store is study.store
    assert it.sized(study.like(n_queries=100), HEAVY).labels.n_queries == 100


def test_a_chapter_runs_in_full_reduced_or_not_at_all(root, values):
    mine, asked = Study(validate(values)), []

    def ask(study):
        asked.append(study.parameters.n_seeds)
        return ROWS

    full = Study(validate(values | {"full": [8], "n_seeds": 3, "run_dir": str(root / "full")}))
    assert it.results(full, HEAVY, ask) is ROWS
    assert it.results(mine, HEAVY, ask) is ROWS
    assert asked == [3, it.REDUCED["n_seeds"]]
    publish_full(root, values)
    pd.testing.assert_frame_equal(it.results(mine, HEAVY, own), ROWS)
    for notebook in (HEAVY, "06_light"):  # what is published is not recorded as a run's own
        check(mine, notebook, ROWS)
    assert [path.stem for path in mine.run_dir.glob("metrics/*.json")] == ["06_light"]
    assert it.results(mine, "07_not_full", ask) is ROWS
    assert it.results(mine.like(seed=1), HEAVY, ask) is ROWS
    assert len(asked) == 4


def test_a_published_run_from_other_inputs_is_not_shown(root, values):
    asked, prices = ROWS.assign(estimate=0.0), root / "world" / "prices.csv"
    before = prices.read_text()
    publish_full(root, values)
    for spoil in (
        lambda: prices.write_text(before.replace("4.0", "5.0")),
        lambda: tiny_models.save(root / "world" / "main", seed=99),
        lambda: tiny_models.save(root / "world" / "control", seed=99),
        lambda: tiny_studies.label_table(seed=3).to_csv(root / "world" / "labels.csv"),
    ):
        pd.testing.assert_frame_equal(it.results(Study(validate(values)), HEAVY, own), ROWS)
        spoil()
        assert it.results(Study(validate(values)), HEAVY, lambda _: asked) is asked
        prices.write_text(before)
        publish_full(root, values)


def test_it_is_said_whose_numbers_are_shown(root, values, monkeypatch):
    monkeypatch.setitem(it.REDUCED, "n_queries", 100)
    mine = Study(validate(values))
    n = mine.labels.n_queries
    assert f"100 of the {n:,} queries" in it.provenance(mine, HEAVY)
    assert "full=[8]" in it.provenance(mine, HEAVY)
    full = Study(validate(values | {"full": [8]}))
    assert it.provenance(full, HEAVY) == (
        f"The numbers shown are this run's own, on all of its {n:,} queries."
    )
    for code, said in (
        ("c" * 64, "v0.1, commit 20b58d0"),
        ({"version": "0.2.0", "stages": STAGES}, "prefill-router 0.2.0"),
    ):
        publish_full(root, values, versions={"python": "3.9.9"}, code=code)
        assert it.provenance(mine, HEAVY) == (
            f"The numbers shown are those of the published full run (any), on all of its {n:,} "
            f"queries, computed by {said} with python 3.9.9."
        )


def test_only_heavy_chapters_in_full_are_published_and_an_altered_file_is_refused(root):
    out = it.publish(finished(root, "run", {"full": [8]})).parent
    assert sorted(path.name for path in out.iterdir()) == [f"{HEAVY}.json", "manifest.json"]
    pd.testing.assert_frame_equal(it.read_published(out, HEAVY), ROWS)
    path = out / f"{HEAVY}.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    for spoil in (lambda: None, path.unlink):
        spoil()
        with pytest.raises(InputError, match=r"08_heavy\.json is missing or not what was publish"):
            it.read_published(out, HEAVY)
    with pytest.raises(InputError, match="no finished run"):
        it.publish(root)


def test_no_path_of_the_machine_is_published_but_the_content_is_identified(root):
    given = {
        "encoder": "/mine/model",
        "embedding": "/mine/model",
        "encoders": ["/a/b", "zoo/reader-s"],
        "untrained": "",
        "run_dir": "/runs/x",
        "full": [8],
    }
    hashes = {"/mine/model": "h1", "/a/b": "h2", "zoo/reader-s": "h3"}
    rows = ROWS.assign(encoder="/mine/model", router=["/a/b", ""])
    run = finished(root, "mine", given, rows, encoders=hashes)
    (root / "experiments").mkdir()
    (root / "experiments" / "mine.yaml").write_text("{encoder: org/model, embedding: org/model}")
    manifest = read_json(it.publish(run))
    public = {"encoder": "org/model", "encoders": ["b", "zoo/reader-s"], "run_dir": "x"}
    assert manifest["parameters"].items() >= public.items()
    assert manifest["encoders"] == {"org/model": "h1", "b": "h2", "zoo/reader-s": "h3"}
    published = it.read_published(root / it.PUBLISHED / "mine", HEAVY)
    expected = ROWS.assign(encoder="org/model", router=["b", ""])
    pd.testing.assert_frame_equal(published, expected, check_dtype=False)
    text = "".join(path.read_text() for path in (root / it.PUBLISHED / "mine").iterdir())
    assert "/mine" not in text


# -- pools of real labels ------------------------------------------------------------------------

OF_POOL = tidy(
    {"metric": metric, "router": router, "target": target, "split": split, "estimate": 0.1, "n": 9}
    for metric, router, target, split in (
        ("gap closed", "SharedTrunkNet", "", "test"),
        ("gap closed", "single target", "a", "test"),
        ("gap closed", "SharedTrunkNet", "", "validation"),
        ("ECE", "SharedTrunkNet", "", "test"),
    )
).assign(lower=0.0, upper=0.2)


def test_pools_are_shown_as_published_and_the_missing_ones_say_how_to_run_them(root):
    (root / "experiments").mkdir()
    experiment = root / "experiments" / "zeroeval.yaml"
    experiment.write_text((project_root() / "experiments" / "zeroeval.yaml").read_text())
    given = yaml.safe_load(experiment.read_text()) | {"encoder": "/mine/m", "embedding": "/mine/m"}
    known = {"seconds": {it.CHAPTER: 90.0}, "encoders": {"/mine/m": "hash"}}
    it.publish(finished(root, "zeroeval", given, OF_POOL, it.CHAPTER, **known))
    pools, missing = it.published_pools(root)
    assert list(pools) == ["zeroeval"]
    pd.testing.assert_frame_equal(pools["zeroeval"], OF_POOL)
    assert len(missing) == len(it.POOLS) - 1
    assert "experiments/mmlu_pro.yaml" in missing[0]
    assert "prefill-router publish runs/mmlu_pro." in missing[0]
    row = one(it.pool_rows(pools), target="ZeroEval")
    assert (row.router, row.estimate) == ("SharedTrunkNet", 0.1)
    [line] = it.settings_table(root, list(pools)).to_dict("records")
    said = {"encoder": "sentence-transformers/all-MiniLM-L6-v2", "minutes of this chapter": 1.5}
    assert line.items() >= (said | {"outer folds": 5, "networks trained, kept": "10, 5"}).items()
    others, missing = it.published_pools(root, "13_what_it_promises")
    assert others == {} and len(it.pool_rows(others)) == 0 and it.settings_table(root, []).empty
    assert "ZeroEval: no results of chapter 13 are published." in missing[-1]


def test_every_pool_has_an_experiment_that_asks_its_chapter_in_full():
    for name in it.POOLS:
        experiment = project_root() / "experiments" / f"{name}.yaml"
        assert yaml.safe_load(experiment.read_text())["full"] == [8, 13]
    assert (project_root() / "notebooks" / f"{it.CHAPTER}.ipynb").exists()
