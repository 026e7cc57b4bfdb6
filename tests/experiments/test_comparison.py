import numpy as np
import pytest
from tiny_studies import auc_within_folds, flipped

from prefill_router.evaluation.results import one
from prefill_router.experiments import comparison as it
from prefill_router.experiments.routers import PRIMARY, TFIDF, predictions


def by_tolerance(p, cost, tau):
    """Choose for each row the cheapest target within `tau`, by a loop."""
    choices = []
    for row, paid in zip(p, cost, strict=True):
        allowed = [k for k in range(len(row)) if row.max() - row[k] <= tau + 1e-12]
        choices.append(min(allowed, key=lambda k: (paid[k], -row[k], k)))
    return np.array(choices)


def brute_force(study, router):
    """Route every test query with the best and the cheapest good enough tau of its fold."""
    Y, result = study.labels.correct, []
    for fold, p in enumerate(predictions(study, router)):
        split, cost = study.splits[fold], study.expected_costs(fold)
        v = split.validation
        tried = []
        for tau in np.unique(p[v].max(axis=1, keepdims=True) - p[v]):
            choice = by_tolerance(p[v], cost[v], tau)
            tried.append((-Y[v, choice].mean(), cost[v, choice].mean(), tau))
        # sums in another order differ in the last digits
        best = min(tried, key=lambda t: (round(t[0], 9), round(t[1], 15), t[2]))
        enough = [t for t in tried if -t[0] >= Y[v, study.best_single[fold]].mean() - 1e-9]
        cheap = min(enough, key=lambda t: (round(t[1], 15), round(t[0], 9), t[2]), default=best)
        t, taus = split.test, (best[2], cheap[2])
        choices = [by_tolerance(p[t], cost[t], tau) for tau in taus]
        result += zip(t, *choices, strict=True)
    return [list(of) for of in zip(*sorted(result), strict=True)][1:]


@pytest.mark.parametrize("router", [PRIMARY, TFIDF])
def test_routing_with_costs_is_that_of_a_search_by_hand(study, router):
    routed = it.route(study, router)
    choice, frugal = brute_force(study, router)
    assert routed.choice.tolist() == choice and routed.frugal.tolist() == frugal
    assert np.array_equal(routed.p, it.held_out(study).join(predictions(study, router)))
    cost = study.costs[study.test_rows]
    n = np.arange(len(cost))
    assert cost[n, routed.frugal].mean() < cost[n, routed.choice].mean()


def test_routing_without_costs_asks_the_likeliest(study):
    routed = it.route(study.like(prices="", outer_folds=1), TFIDF)
    assert routed.choice.tolist() == routed.p.argmax(axis=1).tolist()
    assert routed.frugal.tolist() == routed.choice.tolist()


def test_routing_learns_nothing_from_test_labels(study):
    study, tokens = study.like(outer_folds=1), study.labels.output_tokens.copy()
    tokens[study.test_rows] = 500
    other = flipped(study, study.test_rows, output_tokens=tokens)
    mine, theirs = it.route(study, TFIDF), it.route(other, TFIDF)
    assert mine.choice.tolist() == theirs.choice.tolist()
    assert mine.frugal.tolist() == theirs.frugal.tolist()
    assert study.best_single == other.best_single


@pytest.mark.parametrize("split", ["test", "validation"])
def test_held_out_rows_keep_their_own_folds_labels_costs_and_predictions(study, split):
    at, labels = it.held_out(study, split), study.labels
    rows = np.concatenate([getattr(each, split) for each in study.splits])
    assert sorted(at.rows) == sorted(rows) and at.split == split
    np.testing.assert_array_equal(at.correct, labels.correct[at.rows])
    np.testing.assert_array_equal(at.cost, study.costs[at.rows])
    np.testing.assert_array_equal(at.groups, labels.group[at.rows])
    p = predictions(study, TFIDF)
    for row, fold, joined, best in zip(at.rows, at.folds, at.join(p), at.best_single, strict=True):
        assert row in getattr(study.splits[fold], split) and best == study.best_single[fold]
        np.testing.assert_array_equal(joined, p[fold][row])


def test_probabilities_are_judged_by_auc_within_folds(study):
    p = it.held_out(study).join(predictions(study, TFIDF))
    found = it.held_out(study).probabilities({"mine": p}, only=["AUC"])
    want = [auc_within_folds(study, p, k) for k in range(study.labels.n_targets)]
    assert found["estimate"].tolist() == pytest.approx([*want, np.mean(want)], abs=1e-12)


def test_dearest_and_cheapest_are_those_of_expected_costs_on_training_rows(study):
    choices = it.reference_choices(study)
    assert set(choices[it.RANDOM]) == {0, 1, 2}
    # prices are (1, 4), (.5, 2) and (.2, .4), and answers are of about one length
    assert (choices[it.DEAREST] == study.labels.targets.index("early")).all()
    assert (choices[it.CHEAPEST] == study.labels.targets.index("noisy")).all()
    found = it.held_out(study).choices(choices)
    assert one(found, metric="cost saving", router=it.DEAREST).estimate == pytest.approx(0)
    assert list(it.reference_choices(study.like(prices=""))) == [it.RANDOM]


def test_everything_stands_a_constant_target(with_constant):
    study = with_constant
    routed = it.route(study, PRIMARY)
    found = it.held_out(study).choices({PRIMARY: routed.choice})
    assert one(found, metric="accuracy", router="oracle").estimate == 1
    assert np.isnan(one(found, metric="gap closed", router=PRIMARY).estimate)  # there is no gap
    aucs = it.held_out(study).probabilities({PRIMARY: routed.p})
    assert np.isnan(one(aucs, metric="AUC", router=PRIMARY, target="perfect").estimate)
