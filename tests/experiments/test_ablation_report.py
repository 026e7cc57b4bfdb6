import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot as plt

from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments import ablation_report as report
from prefill_router.experiments.ablation_results import KEPT, STOPPED, TRIED
from prefill_router.experiments.ablations import ALL, FIRST
from prefill_router.experiments.routers import PRIMARY

NONE, MORE, WIDE = "dropout: none", "dropout: more", "width: double"
DIFFERENCES = {
    "validation": {NONE: (0.3, 0.1, 0.5), WIDE: (0.1, -0.1, 0.3)},
    "test": {NONE: (0.2, 0.1, 0.3), WIDE: (-0.2, -0.3, -0.1)},
}
ONE = {NONE: [0.1, 0.3], WIDE: [-1.0, 1.0], FIRST: [0.0, 0.4]}


def made_up(metric="AUC"):
    """Rows as `ablate` makes them, in an order that mixes kinds."""
    rows = []

    def add(metric, router, split, estimate, lower=math.nan, upper=math.nan):
        rows.append(Estimate(metric, router, "", split, estimate, lower, upper, 9))

    for split, found in DIFFERENCES.items():
        found = {**found, FIRST: (0.0, -0.1, 0.1), MORE: (0.0, -0.1, 0.1), ALL: (0.01, 0.0, 0.02)}
        add(metric, PRIMARY, split, 0.7, 0.6, 0.8)
        for name, values in found.items():
            add(metric, name, split, 0.7 + values[0], 0.5, 0.9)
            add(f"{metric} difference", f"{name} - {PRIMARY}", split, *values)
        for name, values in ONE.items():
            for s, value in enumerate(values, 1):
                pair = f"{name}, seed {s} - {PRIMARY}, seed {s}"
                add(f"{metric} difference", pair, split, value, value - 1, value + 1)
    for what, value in ((KEPT, 2.0), (TRIED, 6.0)):
        add(what, PRIMARY, "train", value, value, value)
    add(STOPPED, NONE, "train", 0.5, 0.2, 0.8)
    return rows


def change(name, rows, part="test"):
    return next(row for row in report.changes(rows, "AUC", part) if row.router == name)


def test_changes_stand_together_by_kind():
    rows = made_up()
    assert [row.router for row in report.changes(rows, "AUC", "test")] == [
        *(NONE, MORE),
        *(WIDE,),
        *(FIRST, ALL),
    ]
    assert report.kinds(rows) == ["dropout", "width", "ensemble"]
    assert report.by_seed(rows, "AUC", "test") == ONE


def test_the_spread_over_seeds_is_that_of_an_average():
    rows = made_up()
    expected = {NONE: 0.2 / math.sqrt(2) / math.sqrt(2), FIRST: 0.4 / math.sqrt(2), ALL: math.nan}
    for name, error in expected.items():
        np.testing.assert_allclose(report.seed_error(change(name, rows), rows), error)


def test_both_sources_of_chance_add_as_squares():
    rows = made_up()
    both = math.hypot(0.2 / 2 / 1.96, 0.1)  # of `NONE`
    assert report.holds_for_other_seeds(change(NONE, rows), rows) == (1.96 * both < 0.2)
    assert report.is_clear(change(WIDE, rows))
    assert not report.holds_for_other_seeds(change(WIDE, rows), rows)
    alone = replace(change(NONE, rows), router=ALL)
    assert not report.holds_for_other_seeds(alone, rows)  # nobody knows


def test_sentences_say_what_the_numbers_say():
    rows = made_up()
    said = report.verdicts(rows, "AUC", "test", "dropout")
    assert len(said) == 2
    assert said[0].startswith(f"{NONE} is better than the recipe in AUC (+0.200")
    assert "may not hold" in said[0]
    assert "not distinguishable" in said[1]
    (wide,) = report.verdicts(rows, "AUC", "test", "width")
    assert wide.startswith(f"{WIDE} is worse than the recipe")
    low = report.verdicts(made_up("Brier"), "Brier", "test", "dropout")[0]
    assert low.startswith(f"{NONE} is worse than the recipe in Brier")


def test_what_matters_lists_only_what_holds():
    rows = made_up()
    ALL_CLEAR = Estimate("AUC difference", f"{ALL} - {PRIMARY}", "", "test", 0.1, 0.05, 0.15, 9)
    assert "better than the recipe: none." in report.what_matters(rows, "AUC", "test")
    rows = [row for row in rows if (row.router, row.split) != (ALL_CLEAR.router, "test")]
    said = report.what_matters([*rows, ALL_CLEAR], "AUC", "test")
    assert "better than the recipe: none. Worse than the recipe: none." in said
    assert f"other seeds, corrected likewise - better: {ALL}; worse: none." in said


def test_what_matters_is_corrected_for_all_changes():
    marginal = Estimate("AUC difference", f"{ALL} - {PRIMARY}", "", "test", 0.1, 0.001, 0.199, 9)
    others = [r for r in made_up() if (r.router, r.split) != (marginal.router, "test")]
    assert ALL in report.what_matters([marginal], "AUC", "test")  # two standard errors
    assert ALL not in report.what_matters([*others, marginal], "AUC", "test")


def test_comparisons_are_counted():
    said = report.multiplicity(made_up(), "AUC", "test")
    assert said.startswith("6 configurations were tried")
    assert "2 of 5 differ" in said
    assert "(1 better, 1 worse)" in said


@pytest.mark.parametrize(("metric", "choice"), [("AUC", NONE), ("Brier", FIRST)])
def test_validation_chooses_and_test_judges(metric, choice):
    said = report.chosen_on_validation(made_up(metric), metric)
    if metric == "AUC":
        assert repr(choice) in said
        assert "On test queries, it is better" in said
    else:
        assert "no change has a better Brier" in said


def test_the_table_has_every_configuration():
    frame = report.summary([*made_up(), *made_up("Brier"), *made_up("gap closed")], "test")
    assert frame["configuration"].tolist() == [PRIMARY, NONE, MORE, WIDE, FIRST, ALL]
    assert frame["AUC"][0] == "0.700 [0.600, 0.800]"
    assert frame["gap closed"][0] == "70.0 % [60.0, 80.0]"
    np.testing.assert_array_equal(frame[STOPPED].isna(), [True, False, True, True, True, True])


@pytest.mark.parametrize(("metric", "scale"), [("AUC", 1), ("gap closed", 100)])
def test_the_figure_shows_changes_and_seeds(metric, scale):
    ax = report.differences(plt.subplots()[1], made_up(metric), metric, "test")
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [NONE, MORE, WIDE, FIRST, ALL]
    shown = np.array(ax.lines[0].get_xdata(), dtype=float)
    np.testing.assert_allclose(shown, scale * np.array([0.2, 0.0, -0.2, 0.0, 0.01]))
    dots = [np.array(dots.get_offsets(), dtype=float) for dots in ax.collections]
    seeds = [dot for dot in dots if dot.shape == (2, 2)]
    np.testing.assert_allclose(seeds[0][:, 0], scale * np.array(ONE[NONE]))
    np.testing.assert_allclose(seeds[1][:, 1], 2.25)
    plt.close()
