import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_studies
import torch
from sklearn.linear_model import LinearRegression
from tiny_studies import label_table

from prefill_router.errors import InputError
from prefill_router.evaluation.metrics import pairwise_brier
from prefill_router.experiments import challenge as challenge_module
from prefill_router.experiments.challenge import (
    AVERAGE,
    CHALLENGER,
    GREEDY,
    RECALIBRATED,
    challenge,
    cross_fitted,
    greedy,
    members,
    recalibrate,
    validation_rows,
)
from prefill_router.experiments.challengers import challenger_names
from prefill_router.experiments.routers import BENCHMARK, CONTROLS, predictions

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def contest(study):
    return challenge(study, False)


def test_recalibration_is_least_squares_on_deviations():
    rng = np.random.default_rng(0)
    p, Y = rng.random((200, 3)), rng.integers(0, 2, (200, 3)).astype(float)
    q = 0.5 + rng.normal(0, 0.02, (50, 3))
    d, e = (x - x.mean(axis=1, keepdims=True) for x in (p, Y))
    # one slope and an intercept a target, as one regression on dummies
    dummies = np.tile(np.eye(3), (200, 1))
    columns = np.column_stack([d.ravel(), dummies])
    truth = LinearRegression(fit_intercept=False).fit(columns, e.ravel())
    dq = q - q.mean(axis=1, keepdims=True)
    expected = dq * truth.coef_[0] + truth.coef_[1:]
    found = recalibrate(p, Y)(q)
    assert found - found.mean(axis=1, keepdims=True) == pytest.approx(expected)
    assert found.mean(axis=1) == pytest.approx(q.mean(axis=1))
    Y[0, 0] = np.nan
    assert recalibrate(p, Y)(q) == pytest.approx(recalibrate(p[1:], Y[1:])(q))


def test_constant_predictions_get_each_targets_share():
    Y = np.array([[1.0, 0], [1, 0], [1, 1], [0, 0]])
    found = recalibrate(np.full((4, 2), 0.5), Y)(np.full((1, 2), 0.5))
    assert found[0, 0] - found[0, 1] == pytest.approx(0.75 - 0.25)


def test_the_greedy_ensemble_finds_the_mixture_that_is_right():
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 2, (400, 3)).astype(float)
    noise = rng.normal(0, 0.3, Y.shape)
    stack = np.stack([Y + noise, rng.random(Y.shape), Y - noise])
    assert greedy(stack, Y) == pytest.approx(np.array([0.5, 0, 0.5]))
    assert greedy(stack[:2], Y)[0] > 0.7


def test_cross_fitting_never_shows_a_row_or_its_group_to_its_own_model():
    groups = np.repeat(np.arange(20), 2)
    values, Y = np.arange(40.0)[:, None], groups[:, None].astype(float)

    def fit(seen, labels):
        def predict(other):
            held = groups[other[:, 0].astype(int)]
            assert not set(held) & set(labels[:, 0])
            return other

        return predict

    assert np.array_equal(cross_fitted(fit, values, Y, groups, 0), values)


def test_the_winner_is_the_best_on_validation_rows_of_each_fold(study, contest):
    names = [*challenger_names(study), *members(study, False), AVERAGE, GREEDY]
    names += [f"{name}{RECALIBRATED}" for name in names]
    for fold, split in enumerate(study.splits):
        Y = study.labels.correct[split.validation]
        scores = {n: pairwise_brier(p, Y).mean() for n, p in contest.validated[fold].items()}
        assert sorted(scores) == sorted(names)
        assert contest.scores[fold] == pytest.approx(scores)
        assert contest.winners[fold] == min(scores, key=scores.get)
        p = contest.p[fold]
        assert np.flatnonzero(np.isnan(p).any(axis=1)).tolist() == split.train.tolist()
    assert not set(members(study, True)) & {*CONTROLS, BENCHMARK}


def test_members_take_part_as_they_are(study, contest):
    name = members(study, False)[0]
    for fold, p in enumerate(predictions(study, name, calibrated=False)):
        v = study.splits[fold].validation
        assert np.array_equal(contest.validated[fold][name], p[v])


def test_candidates_are_scored_on_rows_whose_groups_they_were_not_fitted_to(study, contest):
    """A group's labels bear on what is said of other rows, and on nothing said of its own."""
    names = members(study, False)
    fitted = {name: predictions(study, name, calibrated=False)[0] for name in names}
    v, group = study.splits[0].validation, study.labels.group
    own = group[v] == group[v[0]]
    assert own.sum() == 2
    correct = study.labels.correct.copy()
    correct[v[0], 0] = 1 - correct[v[0], 0]
    other = copy.copy(study)
    other.labels = replace(study.labels, correct=correct)
    before, after = (challenge_module._fold(s, 0, fitted)[3] for s in (study, other))
    for name in before:
        assert np.array_equal(before[name][own], after[name][own]), name
    for name in [*names, AVERAGE, GREEDY]:  # recalibration is fitted, whatever it is of
        recalibrated = f"{name}{RECALIBRATED}"
        assert not np.array_equal(before[recalibrated][~own], after[recalibrated][~own]), name


def test_rows_say_what_won_and_how_much_was_tried(study, contest):
    rows = validation_rows(study, contest)
    assert {row.split for row in rows} == {"validation"}
    won = {row.router: row.estimate for row in rows if row.metric == "folds won"}
    assert sum(won.values()) == len(study.splits)
    assert set(won) == set(contest.winners)
    [tried] = [row for row in rows if row.metric == "configurations tried"]
    assert (tried.router, tried.estimate) == (CHALLENGER, contest.n_tried)
    scored = {row.router: row.estimate for row in rows if row.metric == "pairwise Brier"}
    assert set(scored) == set(contest.scores[0])
    closed = {row.router: row.estimate for row in rows if row.metric == "gap closed"}
    right, best, oracle = [], [], []
    for fold, split in enumerate(study.splits):
        Y = study.labels.correct[split.validation]
        p = contest.validated[fold][AVERAGE]
        right += Y[np.arange(len(Y)), p.argmax(axis=1)].tolist()
        best += Y[:, study.best_single[fold]].tolist()
        oracle += Y.max(axis=1).tolist()
    gap = (np.mean(right) - np.mean(best)) / (np.mean(oracle) - np.mean(best))
    assert closed[AVERAGE] == pytest.approx(gap)


def test_test_labels_never_influence_the_choice(study, contest, tmp_path):
    table = label_table()
    one = tiny_studies.study(tmp_path / "one", table)
    tested = table["query_id"].isin(one.labels.query_id[one.test_rows])
    table.loc[tested, "is_correct"] = 1 - table.loc[tested, "is_correct"]
    other = tiny_studies.study(tmp_path / "other", table)
    mine, theirs = challenge(one, False), challenge(other, False)
    assert mine.scores == theirs.scores
    assert np.array_equal(mine.p[0], theirs.p[0], equal_nan=True)
    assert replace(mine, p=[], validated=[]).n_tried == theirs.n_tried


def test_one_group_cannot_be_cross_fitted():
    with pytest.raises(InputError, match="All 9 validation queries"):
        cross_fitted(None, np.zeros((9, 2)), np.zeros((9, 2)), np.zeros(9), 0)
