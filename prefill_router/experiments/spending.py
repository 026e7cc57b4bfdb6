"""What routing spends: by predicted against median lengths of answers, and within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from operator import itemgetter

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.comparison import (
    BEST,
    ENCODER_INCLUDED,
    SAVING_AGAINST_BEST,
    differences,
)
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.evaluation.tuning import fit_budget
from prefill_router.experiments.comparison import choose_targets, held_out
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters
from prefill_router.labels.costs import MILLION, expected_costs
from prefill_router.metrics import ratio
from prefill_router.zoo.labelling import USD_PER_MILLION_TOKENS_AND_PARAMETERS

PREDICTED, MEDIAN, MEAN = "predicted lengths", "median lengths", "mean lengths"
"""How costs are expected; the last two are the same for every query."""
ERROR = "error of the expected cost"
BUDGETS = (0.25, 0.5, 0.75)
"""Budgets, from what is spent at least (0) to what the dearest target costs (1)."""
SPENT, BUDGET = "spent of the budget", "budget"
ByFold = Sequence[np.ndarray]


def costs_by_way(study: Study) -> dict[str, list[np.ndarray]]:
    """Return costs (N, K) as expected in each fold by `PREDICTED`, `MEDIAN` and `MEAN` lengths.

    The recipe predicts lengths. A prediction that knows nothing of a query is the mean: what is
    gained over the median may be gained by any mean, what is gained over the mean is gained by
    telling queries apart.
    """
    known = study.labels, study.prices, study.activations().full_tokens
    ways = {PREDICTED: [study.expected_costs(fold) for fold in range(len(study.splits))]}
    for way, typical in ((MEDIAN, np.median), (MEAN, np.mean)):
        ways[way] = [expected_costs(*known, split.train, typical) for split in study.splits]
    return ways


def encoder_price(study: Study) -> float | None:
    """Return what reading a prompt costs, in USD per million tokens of the encoder.

    In the zoo by its own rule, a constant times the parameters, all blocks counted. Elsewhere what
    the target with the cheapest input charges, which is too much for an encoder smaller than any
    target. None where no target has a price.
    """
    p, prices = study.parameters, {} if study.prices is None else study.prices.input
    known = [prices[target] for target in study.labels.targets if target in prices]
    if known and p.prices == "zoo" and p.encoder.startswith("zoo/"):
        return USD_PER_MILLION_TOKENS_AND_PARAMETERS * n_parameters(study.source(p.encoder)) / 1e6
    return min(known, default=None)


def evaluate_expected_costs(study: Study, p: ByFold, ways: Mapping[str, ByFold]) -> pd.DataFrame:
    """Compare what routing saves by predicted lengths and by the training median and mean.

    Parameters
    ----------
    study : Study
        With costs.
    p : sequence of ndarrays of shape (N, K)
        Calibrated P(correct) in each fold.
    ways : mapping of str to sequence of ndarrays of shape (N, K)
        From `costs_by_way`; the first is compared with every other.

    Returns
    -------
    pandas.DataFrame
        Of test queries. Of each way and target the root mean squared `ERROR`, as a share of its
        mean cost. Of router "tolerance, WAY", the cheapest tolerance that is on validation as
        accurate as the best single target, the accuracy, and the saving against that target,
        without and with the encoder's cost.
    """
    at, price = held_out(study), encoder_price(study)
    read = None if price is None else study.activations().full_tokens[at.rows] * price / MILLION
    choices = {}
    for way, costs in ways.items():
        folds = enumerate(zip(p, costs, strict=True))
        frugal = [choose_targets(study, fold, *of)[1] for fold, of in folds]
        choices[f"tolerance, {way}"] = at.join(frugal)
    first, *others = choices
    pairs = [*((first, name) for name in others), *((name, BEST) for name in choices)]
    found = at.choices(choices, pairs, encoder_cost=read)
    wanted = ["accuracy", SAVING_AGAINST_BEST, SAVING_AGAINST_BEST + ENCODER_INCLUDED]
    found = select(found, metric=wanted, router=list(choices), versus=None)

    _, test = at.complete()
    first, *others = ways
    columns = {way: (test.join(costs) - test.cost) ** 2 for way, costs in ways.items()}
    share = {ERROR: lambda m, way: ratio(np.sqrt(m[way]), m["cost"])}
    of = differences(share, [*ways], [(first, way) for way in others], test.targets)
    return pd.concat([test.estimate(columns | {"cost": test.cost}, of), found], ignore_index=True)


def evaluate_budgets(
    study: Study, p: ByFold, ways: Mapping[str, ByFold], budgets: Sequence[float] = BUDGETS
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
    (_, test), found = held_out(study).complete(), [results()]
    held = [split.validation for split in study.splits]
    known = [cost[rows] for cost, rows in zip(ways[PREDICTED], held, strict=True)]
    least = np.array([costs.min(axis=1).mean() for costs in known])
    most = np.array([costs.mean(axis=0).max() for costs in known])
    for share, (way, costs) in product(budgets, ways.items()):
        limits = least + share * (most - least)
        asked = []
        for q, cost, rows, limit in zip(p, costs, held, limits, strict=True):
            if limit > 0 and cost[rows].min(axis=1).mean() <= limit:  # it can be kept
                lam = fit_budget(q[rows], cost[rows], limit)
                asked.append(policy.utility(np.nan_to_num(q), cost, lam))
        if len(asked) < len(held):
            continue
        choice = test.join(asked)
        of, cells = {"router": way, "x": share, "n": len(choice)}, (np.arange(len(choice)), choice)
        columns = {SPENT: test.cost[cells] / limits[test.folds], "accuracy": test.correct[cells]}
        quantities = {Quantity(metric, **of): itemgetter(metric) for metric in columns}
        found.append(results([counted(Quantity(BUDGET, **of), np.mean(limits))]))
        found.append(test.estimate(columns, quantities))
    return pd.concat(found, ignore_index=True)
