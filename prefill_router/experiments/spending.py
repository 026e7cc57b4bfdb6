"""What routing spends: by predicted against median lengths of answers, and within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import estimate
from prefill_router.evaluation.comparison import (
    BEST,
    ENCODER_INCLUDED,
    SAVING_AGAINST_BEST,
    compare_choices,
)
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.evaluation.tuning import POLICIES, choose_parameter, fit_budget
from prefill_router.experiments.comparison import best_single, choose_by_fold
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters
from prefill_router.labels.costs import MILLION, expected_costs
from prefill_router.router.cost_comparison import MEAN, MEDIAN, PREDICTED, TRUE, compare_costs
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
    rows, labels = study.test_rows, study.labels
    correct, paid, best = labels.correct, study.costs[rows], best_single(study)
    price, groups, n_resamples = (
        encoder_price(study),
        labels.group[rows],
        study.parameters.n_resamples,
    )
    read = None if price is None else study.activations().full_tokens[rows] * price / MILLION
    expected = {way: study.over_folds(costs) for way, costs in ways.items()} | {TRUE: paid}
    common = {"targets": labels.targets, "encoder_cost": read, "seed": study.parameters.seed}
    curves = compare_costs(
        study.over_folds(p),
        correct[rows],
        paid,
        expected,
        best,
        groups,
        n_resamples=min(1000, n_resamples),
        **common,
    )

    def route(rule: str, cost: Sequence[np.ndarray]) -> np.ndarray:
        def choose(f: int, v: np.ndarray, t: np.ndarray) -> np.ndarray:
            best = {"as_accurate_as": study.best_single[f]}
            parameter = choose_parameter(p[f][v], correct[v], cost[f][v], rule, **best)
            return POLICIES[rule](p[f][t], cost[f][t], parameter)

        return choose_by_fold(study, choose)

    choices = {f"{rule}, {way}": route(rule, c) for rule in POLICIES for way, c in ways.items()}
    pairs = [
        (f"{rule}, {PREDICTED}", f"{rule}, {way}") for rule in POLICIES for way in list(ways)[1:]
    ]
    found = compare_choices(
        choices,
        correct[rows],
        paid,
        best,
        groups,
        pairs=pairs + [(name, BEST) for name in choices],
        n_resamples=n_resamples,
        **common,
    )
    wanted = ["accuracy", SAVING_AGAINST_BEST, SAVING_AGAINST_BEST + ENCODER_INCLUDED]
    chosen = select(found, metric=wanted, router=list(choices), versus=None)
    return pd.concat([curves, chosen], ignore_index=True)


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
    labels, settings, found = study.labels, study.parameters, [results()]
    kept = complete(
        labels.correct[study.test_rows], study.costs[study.test_rows], labels.group[study.test_rows]
    )
    for share in budgets:
        known = [
            c[split.validation] for c, split in zip(ways[PREDICTED], study.splits, strict=True)
        ]
        ends = [(c.min(axis=1).mean(), c.mean(axis=0).max()) for c in known]
        limits = np.array([least + share * (most - least) for least, most in ends])
        if not (limits > 0).all():  # all is free
            continue
        limit = limits[study.test_folds][kept.rows]
        for way, cost in ways.items():

            def choose(
                f: int,
                v: np.ndarray,
                t: np.ndarray,
                cost: Sequence = cost,
                limits: Sequence = limits,
            ) -> np.ndarray:
                lam = fit_budget(p[f][v], cost[f][v], limits[f])
                return policy.utility(p[f][t], cost[f][t], lam)

            try:
                chosen = choose_by_fold(study, choose)
            except InputError:  # it expects to spend more in any case
                continue
            at = np.arange(len(limit)), chosen[kept.rows]
            of = {"router": way, "x": share, "n": len(limit)}
            columns = {SPENT: kept.cost[at] / limit, "accuracy": kept.correct[at]}
            found += [
                results([counted(Quantity(BUDGET, **of), np.mean(limits))]),
                estimate(
                    columns,
                    {Quantity(metric, **of): itemgetter(metric) for metric in columns},
                    kept.groups,
                    n_resamples=settings.n_resamples,
                    seed=settings.seed,
                ),
            ]
    return pd.concat(found, ignore_index=True)
