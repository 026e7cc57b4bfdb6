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
from prefill_router.experiments import spending
from prefill_router.experiments.cost_comparison import MEAN, MEDIAN, PREDICTED, SAVING
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.experiments.study import Study

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def p(study):
    return predictions(study, PRIMARY)


@pytest.fixture(scope="module")
def ways(study):
    return spending.costs_by_way(study)


def test_costs_are_predicted_from_training_answers_alone(study, ways):
    for fold, split in enumerate(study.splits):
        lengths = study.labels.output_tokens
        for rows, same in ((np.r_[split.validation, split.test], True), (split.train, False)):
            changed = lengths.copy()
            changed[rows] *= 3
            other = relabelled(study, output_tokens=changed)
            for way, costs in spending.costs_by_way(other).items():
                assert np.array_equal(costs[fold], ways[way][fold]) == same


def test_means_and_medians_are_those_of_training_answers(study, ways):
    train = study.splits[1].train
    for way, typical in {MEDIAN: np.median, MEAN: np.mean}.items():
        lengths = typical(study.labels.output_tokens[train], axis=0)
        tokens = study.activations().full_tokens[:, None]
        prices = [
            [prices[target] for target in study.labels.targets]
            for prices in (study.prices.input, study.prices.output)
        ]
        expected = (tokens * prices[0] + lengths * prices[1]) / 1e6
        np.testing.assert_allclose(ways[way][1], expected)


def test_the_encoder_is_priced_by_targets_that_have_a_price(study, tmp_path):
    known, targets = study.prices, study.labels.targets
    assert spending.encoder_price(study) == min(known.input[t] for t in targets)
    other = copy.copy(study)
    rest = {name: price for name, price in known.input.items() if name != targets[0]}
    other.prices = replace(known, input=rest)
    assert spending.encoder_price(other) == min(known.input[t] for t in targets[1:])
    other.prices = replace(known, input={})
    assert spending.encoder_price(other) is None
    zoo = Study(validate({"encoder": "zoo/qwen3-c"}))
    assert spending.encoder_price(zoo) == pytest.approx(zoo.prices.input["zoo/qwen3-c"])
    table = tiny_studies.label_table().assign(cost_usd=0.01)
    assert spending.encoder_price(tiny_studies.study(tmp_path, table, prices="")) is None


def test_policies_are_chosen_on_validation_and_pay_what_answers_cost(study, p, ways):
    found = spending.evaluate_expected_costs(study, p, ways)
    spent, whole, read = [], [], []
    for fold, split in enumerate(study.splits):
        v, t = split.validation, split.test
        cost, best = ways[PREDICTED][fold], study.best_single[fold]
        labels = study.labels.correct
        tau = choose_parameter(p[fold][v], labels[v], cost[v], as_accurate_as=best)
        chosen = policy.tolerance(p[fold][t], cost[t], tau)
        spent.append(study.costs[t, chosen])
        whole.append(study.costs[t, best])
        read.append(study.activations().full_tokens[t] * spending.encoder_price(study) / 1e6)
    spent, whole, read = (np.concatenate(x).mean() for x in (spent, whole, read))
    name = f"tolerance, {PREDICTED}"
    saved = one(found, metric=SAVING_AGAINST_BEST, router=name).estimate
    assert saved == pytest.approx(1 - spent / whole)
    included = one(found, metric=SAVING_AGAINST_BEST + ENCODER_INCLUDED, router=name).estimate
    assert included == pytest.approx(1 - (spent + read) / whole)
    one(found, metric=SAVING, router=f"utility, {MEDIAN}")
    versus = f"tolerance, {MEDIAN}"
    difference = one(found, metric=SAVING_AGAINST_BEST, router=name, versus=versus).estimate
    other = one(found, metric=SAVING_AGAINST_BEST, router=versus).estimate
    assert difference == pytest.approx(saved - other)


def test_budgets_hold_on_validation_and_are_measured_by_what_was_paid(study, p, ways):
    found = spending.evaluate_budgets(study, p, ways, (0.5,))
    shares, limits = [], []
    for fold, split in enumerate(study.splits):
        v, t = split.validation, split.test
        cost = ways[PREDICTED][fold]
        least, most = cost[v].min(axis=1).mean(), cost[v].mean(axis=0).max()
        limits.append((least + most) / 2)
        lam = fit_budget(p[fold][v], cost[v], limits[-1])
        asked = policy.utility(p[fold][v], cost[v], lam)
        assert cost[v, asked].mean() <= limits[-1] * (1 + 1e-9)
        chosen = policy.utility(p[fold][t], cost[t], lam)
        shares.append(study.costs[t, chosen] / limits[-1])
    spent = one(found, metric=spending.SPENT, router=PREDICTED, x=0.5).estimate
    assert spent == pytest.approx(np.concatenate(shares).mean())
    limit = one(found, metric=spending.BUDGET, router=PREDICTED, x=0.5).estimate
    assert limit == pytest.approx(np.mean(limits))


def test_a_budget_that_cannot_be_met_is_left_out(study, p, ways):
    dear = {PREDICTED: ways[PREDICTED], MEDIAN: [10 * cost for cost in ways[MEDIAN]]}
    found = spending.evaluate_budgets(study, p, dear, (0.1,))
    assert set(found["router"]) == {PREDICTED}
    free = {PREDICTED: [0 * cost for cost in ways[PREDICTED]]}
    assert spending.evaluate_budgets(study, p, free, (0.1,)).empty


def test_every_result_has_a_name_of_its_own(study, p, tmp_path):
    found = spending.spending(study, p)
    assert not found.duplicated(["metric", "router", "versus", "target", "x", "split"]).any()
    assert not select(found, metric=[SAVING, spending.SPENT]).empty
    free = tiny_studies.study(tmp_path, prices="")
    assert spending.spending(free, []).empty
