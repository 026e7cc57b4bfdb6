import copy
from dataclasses import replace

import numpy as np
import pytest

from prefill_router.evaluation import metrics
from prefill_router.evaluation.choices import evaluate_choices
from prefill_router.evaluation.probabilities import evaluate_probabilities
from prefill_router.experiments import ablation_results, ablations
from prefill_router.experiments.ablation_results import (
    KEPT,
    METRICS,
    STOPPED,
    TRIED,
    ablate,
    compare,
    last_epoch,
)
from prefill_router.experiments.ablations import Networks, configurations, variants
from prefill_router.experiments.comparison import best_single, choose_targets
from prefill_router.experiments.comparison import test_labels as labels_of_test
from prefill_router.experiments.routers import PRIMARY


def routed(study, by_fold):
    return [choose_targets(study, fold, p)[0] for fold, p in enumerate(by_fold)]


@pytest.fixture
def made_up(study):
    """Two predictions of all rows in each fold, and labels of which some are missing."""
    rng = np.random.default_rng(0)
    p = {
        name: [rng.random(study.labels.correct.shape) for _ in study.splits] for name in ("a", "b")
    }
    return p, {name: routed(study, folds) for name, folds in p.items()}


def test_results_equal_those_of_the_evaluation(study, made_up):
    p, choices = made_up
    rows = compare(study, "test", p, choices, [("a", "b")], 100)
    found = {(row.metric, row.router): row for row in rows}
    joined = {name: study.over_folds(folds) for name, folds in p.items()}
    groups = study.labels.group[study.test_rows]
    common = {"targets": study.labels.targets, "primary": "a", "n_resamples": 100}
    Y = labels_of_test(study)
    probabilities = evaluate_probabilities(joined, Y, groups, folds=study.test_folds, **common)
    asked = {name: study.over_folds(folds) for name, folds in choices.items()}
    by_choice = evaluate_choices(asked, Y, None, best_single(study), groups, **common)
    expected = [row for row in [*probabilities, *by_choice] if not row.target]
    checked = 0
    for row in expected:
        if (row.metric, row.router) in found:
            ours = found[row.metric, row.router]
            bounds = (ours.estimate, ours.lower, ours.upper)
            np.testing.assert_allclose(bounds, (row.estimate, row.lower, row.upper), atol=1e-12)
            assert (ours.n, ours.split) == (row.n, row.split)
            checked += 1
    assert checked == 8  # three metrics of two, differences of AUC and of gap closed
    difference = found["Brier difference", "a - b"].estimate
    scores = [np.mean(metrics.brier(joined[name], Y)) for name in ("a", "b")]
    np.testing.assert_allclose(difference, scores[0] - scores[1])


def test_missing_labels_are_left_out(study, made_up):
    p, choices = made_up
    partly = copy.copy(study)
    Y = study.labels.correct.copy()
    Y[::3, 0] = np.nan
    partly.labels = replace(study.labels, correct=Y)
    rows = compare(partly, "validation", p, choices, [], 100)
    v = np.concatenate([split.validation for split in study.splits])
    scores = np.concatenate([a[s.validation] for a, s in zip(p["a"], study.splits, strict=True)])
    for row in rows:
        asked = ~np.isnan(Y[v])
        wanted = asked.all(axis=1) if row.metric == "gap closed" else asked.any(axis=1)
        assert row.n == wanted.sum()
    brier = next(row for row in rows if (row.metric, row.router) == ("Brier", "a"))
    expected = [np.mean((scores - Y[v])[seen, k] ** 2) for k, seen in enumerate(asked.T)]
    np.testing.assert_allclose(brier.estimate, np.mean(expected))


def test_every_configuration_has_its_rows_and_is_counted(study, monkeypatch):
    some = {name: variants(study)[name] for name in (PRIMARY, "dropout: none")}
    for module in (ablations, ablation_results):
        monkeypatch.setattr(module, "variants", lambda study: some)
    rows = ablate(study)
    names = list(configurations(study))
    keys = [(row.metric, row.router, row.split) for row in rows]
    assert len(set(keys)) == len(keys)
    for part in ("validation", "test"):
        for metric in METRICS:
            assert all((metric, name, part) in keys for name in names)
            others = [f"{name} - {PRIMARY}" for name in names if name != PRIMARY]
            assert all((f"{metric} difference", other, part) in keys for other in others)
    assert (
        "AUC difference",
        f"dropout: none, seed 2 - {PRIMARY}, seed 2",
        "test",
    ) in keys
    counts = {row.metric: row.estimate for row in rows if row.metric in (KEPT, TRIED)}
    assert counts == {KEPT: study.parameters.keep, TRIED: len(names)}
    assert {row.router for row in rows if row.metric == STOPPED} == set(some)


def test_networks_that_ran_out_of_epochs_are_counted():
    epochs = np.array([[150.0, 12.0], [150.0, 150.0]])
    row = last_epoch("x", [Networks(np.zeros((2, 1, 2)), epochs, epochs, epochs)])
    assert (row.estimate, row.n) == (0.75, 4)
    z, n = 1.959964, 4
    centre = (3 + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(3 * 1 / n + z**2 / 4)
    np.testing.assert_allclose((row.lower, row.upper), (centre - half, centre + half), rtol=1e-5)
