import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_studies
from tiny_studies import relabelled

from prefill_router import policy
from prefill_router.config import validate
from prefill_router.evaluation.comparison import ENCODER_INCLUDED, SAVING_AGAINST_BEST
from prefill_router.evaluation.results import one, select
from prefill_router.evaluation.tuning import choose_parameter, fit_budget
from prefill_router.experiments import spending as it
from prefill_router.experiments.comparison import held_out
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


def test_errors_of_expected_costs_are_shares_of_the_mean_cost(study, p, ways):
    found = it.evaluate_expected_costs(study, p, ways)
    at = held_out(study)
    for way, costs in ways.items():
        error = np.sqrt(np.mean((at.join(costs) - at.cost) ** 2, axis=0)) / at.cost.mean(axis=0)
        rows = select(found, metric=it.ERROR, router=way, target=list(at.targets))
        np.testing.assert_allclose(rows["estimate"], error)
    errors = found[found["metric"] == it.ERROR]
    assert set(errors["versus"]) == {"", it.MEDIAN, it.MEAN}
    assert not found.duplicated(["metric", "router", "versus", "target"]).any()
