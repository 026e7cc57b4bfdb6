import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_studies import study as tiny_study

from prefill_router.evaluation.results import read_metrics, results
from prefill_router.experiments import expectations as it

NAN = math.nan


def row(metric, estimate, lower=NAN, upper=NAN, n=90, **more):
    return {"metric": metric, "estimate": estimate, "lower": lower, "upper": upper, "n": n} | more


ROWS = [
    row("accuracy", 0.5, 0.4, 0.6, router="net"),
    row("AUC", 0.8, 0.75, 0.9, router="net"),
    row("J", 20.0, encoder="e", layer=3, pooling="mean", split="train"),
    row("J", NAN, encoder="e", layer=0, pooling="last", split="train"),
    row("accuracy", 0.6, 0.4, 0.6, router="net", target="a"),
]
FOUND = results(ROWS)
NOTHING = "recorded; there are no committed numbers of these parameters to compare with"


def changed(at, **values):
    return results([r | values if i == at else r for i, r in enumerate(ROWS)])


@settings(max_examples=10, deadline=None)
@given(st.floats(-10, 10), st.floats(1e-6, 5), st.floats(1e-6, 5), st.sampled_from([-1, 1]))
def test_the_tolerance_is_half_the_width_and_no_more(estimate, below, above, sign):
    expected = results([row("AUC", estimate, estimate - below, estimate + above)])
    allowed = 0.5 * (expected["upper"].iloc[0] - expected["lower"].iloc[0])
    assert it.tolerance(expected.iloc[0]) == pytest.approx(allowed, rel=1e-12)
    inside, outside = (
        expected.assign(estimate=estimate + sign * share * allowed) for share in (0.999, 1.001)
    )
    assert it.compare(inside, expected) == []
    assert len(it.compare(outside, expected)) == 1


def test_what_differs_is_named():
    """Bounds and counts too: a sentence says better or worse by the bounds, not the estimate."""
    for same in (FOUND, changed(2, estimate=20.19), changed(2, estimate=19.81)):
        assert it.compare(same, FOUND) == []
    assert it.compare(changed(2, estimate=20.21), FOUND) == [
        "J / e / 3 / mean / train: 20.21 [nan, nan] (n = 90), expected 20 [nan, nan] (n = 90), "
        "each +- 0.2"
    ]
    for name, value in {"lower": 0.51, "upper": 0.71, "n": 7}.items():
        [line] = it.compare(changed(0, **{name: value}), FOUND)
        assert line.startswith("accuracy / net / test: ") and f"{value}" in line.split("exp")[0]
    uncounted = results([row("AUC", 0.5, n=None)])
    assert it.compare(uncounted, uncounted) == []
    assert len(it.compare(uncounted, uncounted.assign(n=9))) == 1
    for at in (0, 3):  # the latter undefined
        fewer, other = FOUND.drop(index=at), changed(at, encoder="other")
        for found, expected, said in (
            (fewer, FOUND, ["missing"]),
            (FOUND, fewer, ["not expected"]),
            (other, FOUND, ["missing", "not expected"]),
        ):
            lines = it.compare(found, expected)
            assert sorted(line.rpartition(": ")[2] for line in lines) == said
        [line] = it.compare(changed(at, estimate=99.0), FOUND)
        assert ": 99 [" in line


def test_the_headline_is_a_few_stable_numbers_of_each_metric():
    bounds = {"estimate": 0.5, "lower": 0.4, "upper": 0.6}
    many = [row("AUC", **bounds, router=f"r{i}", split="validation") for i in range(9)]
    less_stable = [
        row("AUC", **bounds, router="a", versus="b"),
        row("AUC", **bounds, router="a", seed=1),
        row("p-value", 0.5),  # which has no interval
        row("cost saving", **bounds, router="net"),
    ]
    # joined frames share index values, which name no row
    kept = it.headline(pd.concat([results([*less_stable, *many]), results(ROWS)]))
    assert kept["metric"].value_counts().to_dict() == {"AUC": it.PER_METRIC, "accuracy": 2, "J": 1}
    assert kept["versus"].eq("").all() and kept["seed"].isna().all()
    assert kept[kept["metric"] == "AUC"]["split"].iloc[0] == "test"  # which come first
    assert kept[kept["metric"] == "accuracy"]["target"].tolist() == ["", "a"]  # and over targets


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5))
def test_every_metric_has_its_turn_before_one_has_a_second(n_metrics, n_each):
    names = [f"metric {i}" for i in range(n_metrics)]
    rows = [row(m, 0.5, layer=1, router=f"r{i}") for m in names for i in range(n_each)]
    kept = it.headline(results(rows))
    assert list(dict.fromkeys(kept["metric"])) == names[: it.MOST]
    assert len(kept) == min(it.MOST, n_metrics * min(n_each, it.PER_METRIC))
    assert kept["metric"].value_counts().max() <= -(-len(kept) // min(n_metrics, it.MOST))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr("prefill_router.experiments.study.project_root", lambda: tmp_path)
    return tiny_study(tmp_path / "world")


def test_accepted_numbers_are_held_to_and_no_others(study, tmp_path):
    (tmp_path / "experiments").mkdir()
    assert it.check(study, "01_labels", FOUND) == NOTHING
    pd.testing.assert_frame_equal(read_metrics(study.run_dir / "metrics/01_labels.json"), FOUND)
    assert it.accept(study) == tmp_path / it.EXPECTED
    assert it.check(study, "01_labels", FOUND) == "all 4 headline numbers are as expected"
    assert it.check(study, "02_other", FOUND) == NOTHING
    said = it.check(study, "01_labels", changed(0, estimate=0.9)).splitlines()
    assert said[0] == "1 numbers are not as expected:"
    assert said[1].startswith("accuracy / net / test: 0.9 [0.4, 0.6] (n = 90), expected 0.5 ")
    other = tiny_study(tmp_path / "world", seed=1, run_dir=str(tmp_path / "other"))
    assert it.check(other, "01_labels", changed(0, estimate=0.9)) == NOTHING
    it.accept(other)  # which keeps what is expected of the first
    assert it.check(study, "01_labels", FOUND).startswith("all 4")
    assert it.check(other, "01_labels", FOUND).startswith("1 numbers are not as expected")
    # a chapter of which nothing is held does not say that all is as expected
    for estimate in (0.5, 0.9):
        said = it.check(study, "03_none", results([row("p-value", estimate)]))
        it.accept(study)
    assert said == "recorded; none of these numbers is held to any"
