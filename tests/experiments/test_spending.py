import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_studies

from prefill_router import policy
from prefill_router.config import validate
from prefill_router.evaluation.estimates import find, pick
from prefill_router.evaluation.tuning import choose_cheapest_policy, fit_budget
from prefill_router.experiments import spending
from prefill_router.experiments.against_single import SAVED
from prefill_router.experiments.calibrated_predictions import calibrated_predictions
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.study import Study
from prefill_router.router.cost_comparison import ENCODER, MEAN, MEDIAN, PREDICTED, SAVING

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def p(study):
    return calibrated_predictions(study)[1]


@pytest.fixture(scope="module")
def ways(study):
    return spending.costs_by_way(study)


def test_costs_are_predicted_from_training_answers_alone(study, ways):
    for fold, split in enumerate(study.splits):
        lengths = study.labels.output_tokens
        for rows, same in ((np.r_[split.validation, split.test], True), (split.train, False)):
            other, changed = copy.copy(study), lengths.copy()
            changed[rows] *= 3
            other.labels = replace(study.labels, output_tokens=changed)
            found = other.expected_costs(fold)
            assert np.array_equal(found, ways[PREDICTED][fold]) == same


def test_means_and_medians_are_those_of_training_answers(study, ways):
    train = study.splits[1].train
    costs = {MEDIAN: np.median, MEAN: np.mean}
    for way, typical in costs.items():
        lengths = typical(study.labels.output_tokens[train], axis=0)
        tokens = study.activations().full_tokens[:, None]
        prices = [
            [prices[target] for target in study.labels.targets]
            for prices in (study.prices.input, study.prices.output)
        ]
        expected = (tokens * prices[0] + lengths * prices[1]) / 1e6
        np.testing.assert_allclose(ways[way][1], expected)


def test_the_encoder_is_priced_by_targets_that_have_a_price(study):
    known = study.prices
    assert spending.encoder_price(study) == min(known.input[t] for t in study.labels.targets)
    other = copy.copy(study)
    first = study.labels.targets[0]
    other.prices = replace(known, input={k: v for k, v in known.input.items() if k != first})
    rest = [known.input[target] for target in study.labels.targets[1:]]
    assert spending.encoder_price(other) == min(rest)
    other.prices = replace(known, input={})
    assert spending.encoder_price(other) is None


def test_lengths_that_states_tell_are_predicted(study):
    x = FoldFit(study, 0, [study.parameters.encoder]).features()[:, 0]
    lengths = np.repeat(30 * np.exp(x / x.std())[:, None], study.labels.n_targets, axis=1)
    other = copy.copy(study)
    other.labels = replace(study.labels, output_tokens=lengths)
    other.__dict__.pop("costs", None)
    test = study.splits[0].test
    by_way = spending.costs_by_way(other)
    errors = {way: ((by_way[way][0] - other.costs)[test] ** 2).mean() for way in by_way}
    assert errors[PREDICTED] < 0.1 * errors[MEDIAN]


def test_policies_are_chosen_on_validation_and_pay_what_answers_cost(study, p, ways):
    found = spending.evaluate_expected_costs(study, p, ways)
    spent, whole, read = [], [], []
    for fold, split in enumerate(study.splits):
        v, t = split.validation, split.test
        cost, best = ways[PREDICTED][fold], study.best_single[fold]
        cheap = choose_cheapest_policy(p[fold][v], study.labels.correct[v], cost[v], best)
        spent.append(study.costs[t, cheap.choose(p[fold][t], cost[t])])
        whole.append(study.costs[t, best])
        read.append(study.activations().full_tokens[t] * spending.encoder_price(study) / 1e6)
    spent, whole, read = (np.concatenate(x).mean() for x in (spent, whole, read))
    name = f"tolerance, {PREDICTED}"
    assert pick(found, SAVED, name).estimate == pytest.approx(1 - spent / whole)
    included = pick(found, SAVED + ENCODER, name)
    assert included.estimate == pytest.approx(1 - (spent + read) / whole)
    assert find(found, SAVING, f"utility, {MEDIAN}") is not None
    assert find(found, SAVED + " difference", f"{name} - tolerance, {MEDIAN}") is not None


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
    name = f"budget at 50 % of the range, {PREDICTED}"
    assert pick(found, spending.SPENT, name).estimate == pytest.approx(
        np.concatenate(shares).mean()
    )
    assert pick(found, spending.BUDGET, name).estimate == pytest.approx(np.mean(limits))


def test_a_budget_that_cannot_be_met_is_left_out(study, p, ways):
    dear = {PREDICTED: ways[PREDICTED], MEDIAN: [10 * cost for cost in ways[MEDIAN]]}
    found = spending.evaluate_budgets(study, p, dear, (0.1,))
    assert {row.router.split(", ")[1] for row in found} == {PREDICTED}


def test_the_encoder_s_price_is_the_cheapest_input_s_or_the_zoo_s_rule(study):
    assert spending.encoder_price(study) == 0.2
    zoo = Study(validate({"encoder": "zoo/qwen3-c"}))
    assert spending.encoder_price(zoo) == pytest.approx(zoo.prices.input["zoo/qwen3-c"])


def test_without_a_price_table_the_encoder_s_cost_is_unknown(tmp_path):
    table = tiny_studies.label_table().assign(cost_usd=0.01)
    assert spending.encoder_price(tiny_studies.study(tmp_path, table, prices="")) is None
