"""What routing spends: by predicted against median lengths of answers, and within a budget."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import numpy as np
import pandas as pd

from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import BEST, ENCODER_INCLUDED, SAVING_AGAINST_BEST
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.evaluation.tuning import POLICIES, choose_parameter, fit_budget
from prefill_router.experiments.comparison import choose_by_fold, held_out
from prefill_router.experiments.cost_comparison import MEAN, MEDIAN, PREDICTED, TRUE, compare_costs
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters
from prefill_router.labels.costs import MILLION, expected_costs
from prefill_router.zoo.labelling import USD_PER_MILLION_TOKENS_AND_PARAMETERS

BUDGETS = (0.25, 0.5, 0.75)
"""Budgets, from what is spent at least (0) to what the dearest target costs (1)."""
SPENT, BUDGET = "spent of the budget", "budget"


def spending(study: Study, p: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return `evaluate_expected_costs` and `evaluate_budgets`; nothing where costs are unknown."""
    if not study.has_costs:
        return results()
    ways = costs_by_way(study)
    found = [evaluate(study, p, ways) for evaluate in (evaluate_expected_costs, evaluate_budgets)]
    return pd.concat(found, ignore_index=True)


def costs_by_way(study: Study) -> dict[str, list[np.ndarray]]:
    """Return costs (N, K) as expected in each fold by `PREDICTED`, `MEDIAN` and `MEAN` lengths.

    The recipe predicts lengths. A prediction that knows nothing of a query is the mean: what is
    gained over the median may be gained by any mean, what is gained over the mean is gained by
    telling queries apart.
    """
    n_tokens = study.activations().full_tokens
    ways = {PREDICTED: [study.expected_costs(fold) for fold in range(len(study.splits))]}
    for way, typical in ((MEDIAN, np.median), (MEAN, np.mean)):
        ways[way] = [
            expected_costs(study.labels, study.prices, n_tokens, split.train, typical)
            for split in study.splits
        ]
    return ways


def encoder_price(study: Study) -> float | None:
    """Return what reading a prompt costs, in USD per million tokens of the encoder.

    In the zoo by its own rule, a constant times the parameters, all blocks counted. Elsewhere what
    the target with the cheapest input charges, which is too much for an encoder smaller than any
    target. None where no target has a price.
    """
    p, prices = study.parameters, {} if study.prices is None else study.prices.input
    known = [prices[target] for target in study.labels.targets if target in prices]
    if not known:
        return None
    if p.prices == "zoo" and p.encoder.startswith("zoo/"):
        return USD_PER_MILLION_TOKENS_AND_PARAMETERS * n_parameters(study.source(p.encoder)) / 1e6
    return min(known)


def evaluate_expected_costs(
    study: Study, p: Sequence[np.ndarray], ways: Mapping[str, Sequence[np.ndarray]]
) -> pd.DataFrame:
    """Compare what routing saves by predicted lengths and by the training median and mean.

    Parameters
    ----------
    study : Study
        With costs.
    p : sequence of ndarrays of shape (N, K)
        Calibrated P(correct) in each fold.
    ways : mapping of str to sequence of ndarrays of shape (N, K)
        From `costs_by_way`.

    Returns
    -------
    pandas.DataFrame
        Of test queries. What `compare_costs` reads off the curves, where true lengths are another
        way: the most that knowing them is worth. And accuracy and saving against the best single
        target of policies chosen on validation, the cheapest as accurate there as that target;
        their routers are "tolerance, predicted lengths" and so on.
    """
    at, correct, price = held_out(study), study.labels.correct, encoder_price(study)
    read = None if price is None else study.activations().full_tokens[at.rows] * price / MILLION
    expected = {way: at.join(costs) for way, costs in ways.items()} | {TRUE: at.cost}
    curves = compare_costs(at, at.join(p), expected, read)

    def fit(rule: str, fold: int, v: np.ndarray, cost: np.ndarray) -> float:
        single = study.best_single[fold]
        return choose_parameter(p[fold][v], correct[v], cost[v], rule, as_accurate_as=single)

    choices = {
        f"{rule}, {way}": _route(study, p, costs, rule, functools.partial(fit, rule))
        for rule in POLICIES
        for way, costs in ways.items()
    }
    pairs = [
        (f"{rule}, {PREDICTED}", f"{rule}, {way}") for rule in POLICIES for way in list(ways)[1:]
    ]
    pairs += [(name, BEST) for name in choices]
    found = at.choices(choices, pairs, encoder_cost=read)
    wanted = ["accuracy", SAVING_AGAINST_BEST, SAVING_AGAINST_BEST + ENCODER_INCLUDED]
    chosen = select(found, metric=wanted, router=list(choices), versus=None)
    return pd.concat([curves, chosen], ignore_index=True)


def _route(
    study: Study, p: Sequence[np.ndarray], costs: Sequence[np.ndarray], rule: str, fit: Callable
) -> np.ndarray:
    """Choose targets of the test queries, (n,), by a policy fitted on validation queries."""

    def choose(fold: int, v: np.ndarray, t: np.ndarray) -> np.ndarray:
        return POLICIES[rule](p[fold][t], costs[fold][t], fit(fold, v, costs[fold]))

    return choose_by_fold(study, choose)


def evaluate_budgets(
    study: Study,
    p: Sequence[np.ndarray],
    ways: Mapping[str, Sequence[np.ndarray]],
    budgets: Sequence[float] = BUDGETS,
) -> pd.DataFrame:
    """Say whether a budget that holds on validation queries holds on test, and what it buys.

    Parameters
    ----------
    study, p, ways
        As for `evaluate_expected_costs`.
    budgets : sequence of float
        By predicted lengths on a fold's validation queries: 0 is the least that can be spent, 1
        what the dearest target costs.

    Returns
    -------
    pandas.DataFrame
        For each way of expecting costs (`router`) and share of that range (`x`) the `BUDGET` (USD
        a query, mean over folds), `SPENT`, what test queries really cost as a share of it, and
        "accuracy". A budget below what a way expects to be spent at least is left out.
    """
    found, known = [results()], ways[PREDICTED]
    rows, kept = held_out(study).complete()
    known = [costs[split.validation] for costs, split in zip(known, study.splits, strict=True)]
    least = np.array([costs.min(axis=1).mean() for costs in known])
    most = np.array([costs.mean(axis=0).max() for costs in known])
    for share in budgets:
        limits = least + share * (most - least)
        if not (limits > 0).all():  # all is free
            continue

        def fit(fold: int, v: np.ndarray, cost: np.ndarray, limits: np.ndarray = limits) -> float:
            return fit_budget(p[fold][v], cost[v], limits[fold])

        for way, costs in ways.items():
            try:
                chosen = _route(study, p, costs, "utility", fit)[rows]
            except InputError:  # it expects to spend more in any case
                continue
            limit, cells = limits[kept.folds], (np.arange(len(chosen)), chosen)
            of = {"router": way, "x": share, "n": len(chosen)}
            columns = {SPENT: kept.cost[cells] / limit, "accuracy": kept.correct[cells]}
            quantities = {Quantity(metric, **of): itemgetter(metric) for metric in columns}
            found.append(results([counted(Quantity(BUDGET, **of), np.mean(limits))]))
            found.append(kept.estimate(columns, quantities))
    return pd.concat(found, ignore_index=True)
