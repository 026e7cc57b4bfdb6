import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny_studies import flipped, relabelled

from prefill_router.errors import InputError
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import contest as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import BENCHMARK, CONTROLS, configurations, predictions
from prefill_router.metrics import pairwise_brier


@pytest.fixture(scope="module")
def found(study):
    return it.contest(study, False)


@pytest.mark.parametrize("router", it.CHALLENGERS, ids=lambda router: router.name)
def test_challengers_learn_and_predict_outside_training_rows_alone(study, router):
    by_fold = predictions(study, router)
    for p, split in zip(by_fold, study.splits, strict=True):
        assert np.flatnonzero(np.isnan(p).any(axis=1)).tolist() == split.train.tolist()
        known = p[~np.isnan(p)]
        assert ((known >= 0) & (known <= 1)).all()
    assert configurations(study, router) >= len(study.splits)
    p = held_out(study).join(by_fold)
    Y = study.labels.correct[study.test_rows]
    assert min(roc_auc_score(Y[:, k], p[:, k]) for k in (0, 1)) > 0.6


def test_the_greedy_ensemble_finds_the_mixture_that_is_right():
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 2, (400, 3)).astype(float)
    noise = rng.normal(0, 0.3, Y.shape)
    stack = np.stack([Y + noise, rng.random(Y.shape), Y - noise])
    assert it.greedy(stack, Y) == pytest.approx(np.array([0.5, 0, 0.5]))
    assert it.greedy(stack[:2], Y)[0] > 0.7


def test_the_winner_is_the_best_on_validation_rows_of_each_fold(study, found):
    routers = {r.name: r for r in it.CHALLENGERS} | {n: n for n in it.members(study, False)}
    fitted = {n: predictions(study, r, calibrated=False) for n, r in routers.items()}
    winners, scored = [], {}
    for fold, split in enumerate(study.splits):
        here = {name: p[fold] for name, p in fitted.items()}
        validated, winner, p = it.choose_candidate(study, fold, here)
        assert sorted(validated) == sorted([*fitted, it.AVERAGE, it.GREEDY])
        Y = study.labels.correct[split.validation]
        scores = {n: pairwise_brier(q, Y).mean() for n, q in validated.items()}
        assert winner == min(scores, key=scores.get)
        np.testing.assert_array_equal(found[0][fold], p)
        assert np.flatnonzero(np.isnan(p).any(axis=1)).tolist() == split.train.tolist()
        winners.append(winner)
        for name, q in validated.items():
            scored.setdefault(name, []).append(pairwise_brier(q, Y))
    assert not set(it.members(study, True)) & {*CONTROLS, BENCHMARK}
    rows = found[1]
    assert set(rows["split"]) == {"validation"}
    won = select(rows, metric=it.WON).set_index("router")["estimate"].to_dict()
    assert won == {name: winners.count(name) for name in winners}
    n_tried = sum(configurations(study, r) for r in routers.values()) + 2 * len(winners)
    assert one(rows, metric=it.TRIED, router=it.CHALLENGER).estimate == n_tried
    for name, squares in scored.items():
        row = one(rows, metric=it.PAIRWISE, router=name)
        assert row.estimate == pytest.approx(np.concatenate(squares).mean(), abs=1e-12)


def test_candidates_are_scored_on_rows_whose_groups_they_were_not_fitted_to(study):
    """A group's labels bear on what is said of other rows, and on nothing said of its own."""
    names = it.members(study, False)
    fitted = {name: predictions(study, name, calibrated=False)[0] for name in names}
    v, group = study.splits[0].validation, study.labels.group
    own = group[v] == group[v[0]]
    assert own.sum() == 2
    other = flipped(study, v[own])
    before, after = (it.choose_candidate(s, 0, fitted)[0] for s in (study, other))
    for name in before:
        assert np.array_equal(before[name][own], after[name][own]), name
    assert not np.array_equal(before[it.GREEDY][~own], after[it.GREEDY][~own])


def test_test_labels_never_influence_the_choice(study, monkeypatch):
    monkeypatch.setattr(it, "members", lambda study, full: [])
    mine = study.like(n_queries=120, outer_folds=1)
    found = [it.contest(s, False) for s in (mine, flipped(mine, mine.test_rows))]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1].equals(found[1][1])


def test_validation_queries_of_one_group_are_refused(study):
    group = study.labels.group.copy()
    group[study.splits[0].validation] = group[0]
    fitted = {"mine": np.full(study.labels.correct.shape, 0.5)}
    with pytest.raises(InputError, match="validation queries are of one group"):
        it.choose_candidate(relabelled(study, group=group), 0, fitted)
