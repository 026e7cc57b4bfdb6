import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_studies

from prefill_router.config import validate
from prefill_router.errors import InputError
from prefill_router.evaluation.estimates import Estimate, write_metrics
from prefill_router.experiments.published import (
    PUBLISHED,
    REDUCED,
    is_full,
    provenance,
    publish,
    read_published,
    results,
    sized,
)
from prefill_router.experiments.study import Study
from prefill_router.storage import read_json, write_json

ROWS = [
    Estimate("J", "layer 1", "a", "validation", 0.5, 0.4, 0.6, 9),
    Estimate("AUC", "layer 1", "", "validation", math.nan, math.nan, math.nan, 0),
]
HEAVY = "08_heavy"


def finished(run_dir: Path, parameters: dict, **known) -> Path:
    """A run directory as `run_experiment` leaves it, with two chapters' results."""
    for name in ("06_light", HEAVY):
        write_metrics(run_dir / "metrics" / f"{name}.json", ROWS)
    kept = dict.fromkeys(("code", "versions", "machine", "labels", "seconds"), "x") | known
    kept = {"encoders": {}} | kept
    write_json(run_dir / "manifest.json", kept | {"parameters": parameters})
    return run_dir


def test_only_chapters_that_are_named_are_full():
    some = validate({"full": [8]})
    assert [is_full(some, f"{n:02}_x") for n in (1, 6, 7, 8, 10)] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_a_sized_study_is_smaller_in_every_way_and_shares_the_store(tmp_path):
    study = tiny_studies.study(tmp_path, n_seeds=8, n_resamples=900)
    small = sized(study, HEAVY)
    p = small.parameters
    assert {name: getattr(p, name) for name in REDUCED} == REDUCED
    assert small.store is study.store
    assert small.labels.n_queries == min(study.labels.n_queries, REDUCED["n_queries"])
    assert p.model_copy(
        update={n: getattr(study.parameters, n) for n in [*REDUCED, "run_dir"]}
    ) == (study.parameters)
    fewer = tiny_studies.study(tmp_path, n_queries=100, run_dir=str(tmp_path / "fewer"))
    assert sized(fewer, HEAVY).labels.n_queries == 100


def test_a_full_study_is_asked_itself(tmp_path):
    study = tiny_studies.study(tmp_path, full=[8])
    assert sized(study, HEAVY) is study
    assert results(study, HEAVY, ROWS) == ROWS


def test_what_rests_on_a_sample_is_not_published(tmp_path):
    parameters = validate({"full": [7]}).model_dump(mode="json")
    publish(finished(tmp_path / "run", parameters), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "06_light.json",
        "manifest.json",
    ]


def test_published_results_come_back_and_an_altered_file_is_refused(tmp_path):
    parameters = validate({"full": [8]}).model_dump(mode="json")
    out = publish(finished(tmp_path / "run", parameters), tmp_path / "out").parent
    first, second = read_published(out, HEAVY)
    assert first == ROWS[0]
    assert math.isnan(second.estimate)
    path = out / f"{HEAVY}.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(InputError, match=r"08_heavy\.json is missing or not what was published"):
        read_published(out, HEAVY)
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        read_published(out, HEAVY)


def test_an_unfinished_run_is_not_published(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        publish(tmp_path, tmp_path / "out")


@pytest.fixture
def values(tmp_path, monkeypatch):
    """Parameters of a study whose project, with what is published, is this test's own."""
    monkeypatch.setattr(Study, "root", property(lambda self: tmp_path, lambda self, _: None), False)
    return tiny_studies.world(tmp_path / "world")


def publish_full(tmp_path, values, **known) -> None:
    theirs = validate(values | {"full": [8], "n_resamples": 500, "run_dir": ""})
    run_dir = finished(tmp_path / "run", theirs.model_dump(mode="json"), **known)
    publish(run_dir, tmp_path / PUBLISHED / "any")


def test_a_study_shows_the_published_run_of_its_own_parameters_alone(tmp_path, values):
    mine = Study(validate(values))
    found = [ROWS[0]] * 3
    assert results(mine, HEAVY, found) == found
    publish_full(tmp_path, values, labels=mine.labels.fingerprint)
    assert results(mine, HEAVY, found)[0] == ROWS[0]
    assert len(results(mine, HEAVY, found)) == 2
    assert results(mine, "07_not_full", found) == found
    assert results(Study(validate(values | {"seed": 1})), HEAVY, found) == found


def test_a_published_run_of_other_labels_is_not_shown(tmp_path, values):
    publish_full(tmp_path, values, labels="other")
    found = [ROWS[0]] * 3
    assert results(Study(validate(values)), HEAVY, found) == found


def test_it_is_said_whose_numbers_are_shown(tmp_path, values, monkeypatch):
    monkeypatch.setitem(REDUCED, "n_queries", 100)
    mine = Study(validate(values))
    n = mine.labels.n_queries
    assert f"100 of the {n:,} queries" in provenance(mine, HEAVY)
    assert "full=[8]" in provenance(mine, HEAVY)
    full = Study(validate(values | {"full": [8]}))
    assert provenance(full, HEAVY) == (
        f"The numbers shown are this run's own, on all of its {n:,} queries."
    )
    known = {"labels": mine.labels.fingerprint, "versions": {"python": "3.9.9"}, "code": "c" * 64}
    publish_full(tmp_path, values, **known)
    said = provenance(mine, HEAVY)
    assert f"published full run (any), on all of its {n:,} queries" in said
    assert "v0.1, commit 20b58d0 with python 3.9.9." in said


def test_no_path_of_the_machine_is_published_but_the_content_is_identified(tmp_path):
    given = {
        "encoder": "/mine/model",
        "embedding": "/mine/model",
        "encoders": ["/a/b", "zoo/reader-s"],
    }
    parameters = validate(given | {"full": [8], "untrained": "", "run_dir": "/runs/x"})
    run = finished(
        tmp_path / "run",
        parameters.model_dump(mode="json"),
        encoders={"/mine/model": "h1", "/a/b": "h2", "zoo/reader-s": "h3"},
    )
    rows = [replace(ROWS[0], router="/mine/model, layer 1")]
    write_metrics(run / "metrics" / f"{HEAVY}.json", rows)
    named = {"encoder": "org/model", "embedding": "org/model"}
    manifest = read_json(publish(run, tmp_path / "out", named))
    assert manifest["parameters"]["encoder"] == "org/model"
    assert manifest["parameters"]["encoders"] == ["b", "zoo/reader-s"]
    assert manifest["parameters"]["run_dir"] == "x"
    assert manifest["encoders"] == {"org/model": "h1", "b": "h2", "zoo/reader-s": "h3"}
    [row] = read_published(tmp_path / "out", HEAVY)
    assert row == replace(ROWS[0], router="org/model, layer 1")
    assert "/mine" not in "".join(path.read_text() for path in (tmp_path / "out").iterdir())
