import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_studies
from tiny_studies import relabelled

from prefill_router import policy
from prefill_router.config import validate
from prefill_router.evaluation.comparison import ENCODER_INCLUDED, SAVING_AGAINST_BEST, Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.evaluation.tuning import choose_parameter, fit_budget
from prefill_router.experiments import spending as it
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.experiments.study import Study


@pytest.fixture(scope="module")
def p(study):
    return predictions(study, PRIMARY)


@pytest.fixture(scope="module")
def ways(study):
    return it.costs_by_way(study)


def test_costs_are_expected_from_training_answers_alone(study, ways):
    for fold, split in enumerate(study.splits):
        lengths = study.labels.output_tokens
        for rows, same in ((np.r_[split.validation, split.test], True), (split.train, False)):
            changed = lengths.copy()
            changed[rows] *= 3
            other = relabelled(study, output_tokens=changed)
            for way, costs in it.costs_by_way(other).items():
                assert np.array_equal(costs[fold], ways[way][fold]) == same
        tokens, prices = study.activations().full_tokens[:, None], study.prices
        per_input, per_output = (
            np.array([of[target] for target in study.labels.targets])
            for of in (prices.input, prices.output)
        )
        for way, typical in {it.MEDIAN: np.median, it.MEAN: np.mean}.items():
            expected = tokens * per_input + typical(lengths[split.train], axis=0) * per_output
            np.testing.assert_allclose(ways[way][fold], expected / 1e6)


def test_the_encoder_is_priced_by_targets_that_have_a_price(study, tmp_path):
    known, (first, *rest) = study.prices.input, study.labels.targets
    other = copy.copy(study)
    assert it.encoder_price(other) == min(known[t] for t in (first, *rest))
    other.prices = replace(study.prices, input={t: known[t] for t in rest})
    assert it.encoder_price(other) == min(known[t] for t in rest)
    other.prices = replace(study.prices, input={})
    assert it.encoder_price(other) is None
    zoo = Study(validate({"encoder": "zoo/qwen3-c"}))
    assert it.encoder_price(zoo) == pytest.approx(zoo.prices.input["zoo/qwen3-c"])
    table = tiny_studies.label_table().assign(cost_usd=0.01)
    assert it.encoder_price(tiny_studies.study(tmp_path, table, prices="")) is None


def test_policies_are_chosen_on_validation_and_pay_what_answers_cost(study, p, ways):
    found, paid, correct = it.evaluate_expected_costs(study, p, ways), [], study.labels.correct
    read = study.activations().full_tokens * it.encoder_price(study) / 1e6
    for q, cost, split, best in zip(
        p, ways[it.PREDICTED], study.splits, study.best_single, strict=True
    ):
        v, t = split.validation, split.test
        tau = choose_parameter(q[v], correct[v], cost[v], as_accurate_as=best)
        asked = policy.tolerance(q[t], cost[t], tau)
        paid.append([study.costs[t, asked].sum(), study.costs[t, best].sum(), read[t].sum()])
    spent, whole, read = np.sum(paid, axis=0)
    name, versus = f"tolerance, {it.PREDICTED}", f"tolerance, {it.MEDIAN}"

    def saved(router, more="", **where):
        return one(found, metric=SAVING_AGAINST_BEST + more, router=router, **where).estimate

    assert saved(name) == pytest.approx(1 - spent / whole)
    assert saved(name, ENCODER_INCLUDED) == pytest.approx(1 - (spent + read) / whole)
    assert saved(name, versus=versus) == pytest.approx(saved(name) - saved(versus))


def test_budgets_hold_on_validation_and_are_measured_by_what_was_paid(study, p, ways):
    dear = {it.PREDICTED: ways[it.PREDICTED], it.MEDIAN: [100 * cost for cost in ways[it.MEDIAN]]}
    found = it.evaluate_budgets(study, p, dear, (0.5,))
    assert set(found["router"]) == {it.PREDICTED}  # the other cannot meet it
    shares, limits = [], []
    for q, cost, split in zip(p, ways[it.PREDICTED], study.splits, strict=True):
        v, t = split.validation, split.test
        limit = (cost[v].min(axis=1).mean() + cost[v].mean(axis=0).max()) / 2
        lam = fit_budget(q[v], cost[v], limit)
        assert cost[v, policy.utility(q[v], cost[v], lam)].mean() <= limit * (1 + 1e-9)
        shares.extend(study.costs[t, policy.utility(q[t], cost[t], lam)] / limit)
        limits.append(limit)
    for metric, values in {it.SPENT: shares, it.BUDGET: limits}.items():
        assert one(found, metric=metric, x=0.5).estimate == pytest.approx(np.mean(values))
    free = {it.PREDICTED: [0 * cost for cost in ways[it.PREDICTED]]}
    assert it.evaluate_budgets(study, p, free, (0.1,)).empty


def test_every_result_has_a_name_of_its_own(study, p, tmp_path):
    found = it.spending(study, p)
    assert not found.duplicated(["metric", "router", "versus", "target", "x", "split"]).any()
    assert not select(found, metric=[it.SAVING, it.SPENT]).empty
    assert it.spending(tiny_studies.study(tmp_path, prices=""), []).empty


# -- what the curves hold ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool():
    """Targets that are alike but for what an answer costs, which varies tenfold by query."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 0.9, size=(300, 1)) + rng.normal(0, 0.03, size=(300, 3))
    correct = (rng.random((300, 3)) < truth).astype(float)
    paid = 10 ** rng.uniform(-1, 1, size=(300, 3))
    median = np.repeat(np.median(paid, axis=0)[None], 300, axis=0)
    return truth, correct, paid, median


def compare(pool, expected, encoder_cost=None, best=0):
    p, correct, paid, _ = pool
    at = Evaluation(correct, paid, None, best, ["a", "b", "c"], n_resamples=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(it, "POINTS", 80)  # fewer settings, to be quick
        return it.compare_costs(at, p, expected, encoder_cost)


def test_curves_are_searched_and_only_routing_pays_the_encoder(pool):
    """By brute force: every gap is a tolerance. Knowing costs that vary saves."""
    p, correct, paid, median = pool
    ways = {it.PREDICTED: paid, it.MEDIAN: median, it.MEAN: paid.copy()}
    found = compare(pool, ways, np.full(300, 0.25))
    for way, seen in ways.items():
        least = np.inf
        for tau in np.unique(policy.gaps(p)):
            chosen = policy.tolerance(p, seen, tau)[:, None]
            if np.take_along_axis(correct, chosen, 1).mean() >= correct[:, 0].mean() - 1e-12:
                least = min(least, np.take_along_axis(paid, chosen, 1).mean())
        saving, included = (
            one(found, metric=it.SAVING + more, router=f"tolerance, {way}").estimate
            for more in ("", ENCODER_INCLUDED)
        )
        assert saving <= 1 - least / paid[:, 0].mean() + 1e-12
        assert saving == pytest.approx(1 - least / paid[:, 0].mean(), abs=0.06)
        assert saving - included == pytest.approx(0.25 / paid[:, 0].mean())
    turned = compare(pool, {it.PREDICTED: median, it.MEAN: paid})
    assert not turned["metric"].str.contains(ENCODER_INCLUDED).any()
    for rule in ("tolerance", "utility"):
        knows = {"metric": it.SAVING, "router": f"{rule}, {it.PREDICTED}"}
        assert one(found, **knows, versus=f"{rule}, {it.MEDIAN}").lower > 0.1
        assert one(turned, **knows, versus=f"{rule}, {it.MEAN}").upper < 0
        same = one(found, **knows, versus=f"{rule}, {it.MEAN}")
        assert [same.estimate, same.lower, same.upper] == pytest.approx([0] * 3, abs=1e-12)


def test_errors_of_expected_costs_are_shares_of_the_mean_cost(pool):
    _, _, paid, median = pool
    found = compare(pool, {it.PREDICTED: paid * 1.1, it.MEDIAN: median})
    expected = np.sqrt(np.mean((median - paid) ** 2, axis=0)) / paid.mean(axis=0)
    errors = select(found, metric=it.ERROR, router=it.MEDIAN, target=list("abc"))
    np.testing.assert_allclose(errors["estimate"], expected)
    lead = found["metric"].eq(it.ERROR) & found["versus"].eq(it.MEDIAN)
    assert lead.sum() == 3 and (found[lead]["upper"] < 0).all()


def test_the_best_single_target_may_differ_by_row(pool):
    best = np.arange(300) % 3
    # the same targets in another order in each row, so that the best single one is the first
    moved = [np.take_along_axis(x, (np.arange(3) + best[:, None]) % 3, axis=1) for x in pool]
    found = [
        compare(given, {it.PREDICTED: given[2], it.MEDIAN: given[3]}, best=k)
        for given, k in ((pool, best), (moved, 0), (pool, 0))
    ]
    saved = [select(each, metric=it.SAVING)["estimate"].tolist() for each in found]
    assert saved[0] == pytest.approx(saved[1]) and saved[0] != pytest.approx(saved[2])
