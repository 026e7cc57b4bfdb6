import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_studies import study as tiny_study

from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments.expectations import (
    EXPECTED,
    accept,
    check,
    compare,
    jumps,
    tolerance,
)
from prefill_router.experiments.routers import PRIMARY
from prefill_router.storage import read_json

NAN = math.nan
FOUND = [
    Estimate("accuracy", "net", "", "test", 0.5, 0.4, 0.6, 90),
    Estimate("accuracy", "net", "a", "test", 0.6, 0.4, 0.6, 90),
    Estimate("AUC", "net", "", "test", -0.25, -0.3, -0.1, 90),
    Estimate("J", "layer 3", "", "train", 20.0, NAN, NAN, 90),
    Estimate("J", "layer 0", "", "train", NAN, NAN, NAN, 90),
]


def rows(estimates=FOUND):
    """As they come back from JSON: what is undefined is None."""
    return [{k: None if v != v else v for k, v in asdict(x).items()} for x in estimates]


def changed(at, **values):
    return [replace(x, **values) if i == at else x for i, x in enumerate(FOUND)]


@pytest.mark.parametrize(("router", "share"), [("r", 0.25), (f"r - {PRIMARY}", 0.5)])
@given(st.floats(-10, 10), st.floats(1e-6, 5), st.floats(1e-6, 5), st.sampled_from([-1, 1]))
def test_the_tolerance_is_a_share_of_the_width_and_no_more(
    router, share, estimate, below, above, sign
):
    row = Estimate("m", router, "", "test", estimate, estimate - below, estimate + above, 9)
    allowed = share * (row.upper - row.lower)
    assert tolerance(asdict(row)) == pytest.approx(allowed, rel=1e-12)
    inside = replace(row, estimate=estimate + sign * 0.999 * allowed)
    outside = replace(row, estimate=estimate + sign * 1.001 * allowed)
    assert compare([inside], rows([row])) == []
    assert len(compare([outside], rows([row]))) == 1


def test_a_number_without_an_interval_may_differ_by_a_hundredth():
    assert compare(changed(3, estimate=20.19), rows()) == []
    assert compare(changed(3, estimate=19.81), rows()) == []
    [line] = compare(changed(3, estimate=20.21), rows())
    assert line == "J / layer 3 / train: 20.21, expected 20 +- 0.2"
    assert len(compare(changed(3, estimate=-20.0), rows())) == 1


def test_the_same_numbers_agree_in_any_order():
    assert compare(FOUND, rows()) == []
    assert compare(FOUND[::-1], rows()) == []


@pytest.mark.parametrize("at", range(len(FOUND)))
def test_every_number_that_changes_is_named(at):
    [line] = compare(changed(at, estimate=99.0), rows())
    named = [FOUND[at].metric, FOUND[at].router, FOUND[at].target, FOUND[at].split]
    assert line.startswith(" / ".join(filter(None, named)) + ": 99, expected ")


@pytest.mark.parametrize("at", range(len(FOUND)))
def test_missing_and_unexpected_rows_are_named(at):
    fewer = [x for x in FOUND if x != FOUND[at]]
    [line] = compare(fewer, rows())
    assert line.endswith(": missing")
    [line] = compare(FOUND, rows(fewer))
    assert line.endswith(": not expected")


@pytest.mark.parametrize("field", ["metric", "router", "target", "split"])
def test_a_row_under_another_name_is_another_row(field):
    lines = compare(changed(0, **{field: "other"}), rows())
    assert sorted(line.rpartition(": ")[2] for line in lines) == ["missing", "not expected"]


def test_undefined_agrees_with_undefined_only():
    assert len(compare(changed(0, estimate=NAN), rows())) == 1
    [line] = compare(changed(4, estimate=0.0), rows())
    assert "0, expected nan" in line
    assert compare(changed(4, estimate=NAN), rows()) == []


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr("prefill_router.experiments.study.project_root", lambda: tmp_path)
    return tiny_study(tmp_path / "world")


def test_accepted_numbers_are_held_to_and_no_others(study, tmp_path):
    (tmp_path / "experiments").mkdir()
    assert (
        check(study, "01_labels", FOUND)
        == "recorded; there are no committed numbers of these parameters to compare with"
    )
    assert read_json(study.run_dir / "metrics" / "01_labels.json") == rows()

    assert accept(study) == tmp_path / EXPECTED
    assert check(study, "01_labels", FOUND) == "all 5 numbers are as expected"
    assert (
        check(study, "02_other", FOUND)
        == "recorded; there are no committed numbers of these parameters to compare with"
    )

    text = check(study, "01_labels", changed(0, estimate=0.9))
    assert text.splitlines() == [
        "1 numbers are not as expected:",
        "accuracy / net / test: 0.9, expected 0.5 +- 0.05",
    ]
    elsewhere = tiny_study(tmp_path / "world", seed=1, run_dir=str(tmp_path / "elsewhere"))
    assert (
        check(elsewhere, "01_labels", FOUND)
        == "recorded; there are no committed numbers of these parameters to compare with"
    )


def test_accepting_one_study_keeps_the_others(study, tmp_path):
    check(study, "01_labels", FOUND)
    accept(study)
    other = tiny_study(tmp_path / "world", seed=1, run_dir=str(tmp_path / "other"))
    check(other, "01_labels", changed(0, estimate=0.9))
    accept(other)
    assert check(study, "01_labels", FOUND) == "all 5 numbers are as expected"
    assert check(other, "01_labels", FOUND).startswith("1 numbers are not as expected")


def test_bounds_and_counts_are_held_too():
    """A sentence says better or worse by the bounds, whatever the estimate."""
    row = Estimate("m", "r", "", "test", 0.5, 0.4, 0.6, 9)
    expected = [asdict(row)]
    assert compare([row], expected) == []
    assert "lower bound" in compare([replace(row, lower=0.46)], expected)[0]
    assert "upper bound" in compare([replace(row, upper=0.54)], expected)[0]
    assert compare([replace(row, n=7)], expected) == ["m / r / test: n = 7, expected 9"]


def test_what_hangs_on_a_chosen_tolerance_may_move_with_it():
    saving = Estimate("cost saving", "net", "", "test", 0.25, 0.24, 0.26, 90)
    assert tolerance(asdict(saving)) == 0.05
    assert tolerance(asdict(replace(saving, metric="cost saving difference"))) == 0.05
    assert tolerance(asdict(replace(saving, lower=0.0, upper=0.4))) == pytest.approx(0.1)
    cost = Estimate("mean cost", "net", "", "test", 2e-6, 1.9e-6, 2.1e-6, 90)
    assert tolerance(asdict(replace(cost, lower=1.99e-6, upper=2.01e-6))) == pytest.approx(2e-7)
    for router in ("oracle", "always dearest", "best single target", "single target"):
        assert tolerance(asdict(replace(saving, router=router))) == pytest.approx(0.005)
        assert tolerance(asdict(replace(cost, router=router))) == pytest.approx(5e-8)


def test_what_jumps_is_recorded_and_not_compared(study, tmp_path):
    (tmp_path / "experiments").mkdir()
    jumping = [
        Estimate("p-value (Holm)", "net", "", "test", 0.04, NAN, NAN, 90),
        Estimate("saving at equal accuracy (best)", "net", "", "test", 0.2, NAN, NAN, 90),
        Estimate("median certified tau", "net", "", "test", 0.2, 0.1, 0.3, 90),
        Estimate("AUC", "net, seed 3", "", "test", 0.7, 0.6, 0.8, 90),
    ]
    assert not jumps(Estimate("saving at equal accuracy", "net", "", "test", 0.2, 0.1, 0.3, 90))
    assert not any(map(jumps, FOUND))
    check(study, "01_labels", [*FOUND, *jumping])
    assert read_json(study.run_dir / "metrics" / "01_labels.json") == rows([*FOUND, *jumping])
    accept(study)
    jumped = [replace(row, estimate=0.9) for row in jumping]
    assert check(study, "01_labels", [*FOUND, *jumped]) == "all 5 numbers are as expected"
    said = check(study, "01_labels", [*changed(0, estimate=0.9), *jumped])
    assert said.startswith("1 numbers are not")
    assert "missing" in check(study, "01_labels", [*FOUND, *jumped[1:]])
