"""What routing spends: by predicted against median lengths of answers, and within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefill_router import policy
from prefill_router.evaluation.bootstrap import Interval, intervals
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.tuning import choose_cheapest_policy, fit_budget
from prefill_router.experiments.against_single import compare_with_single
from prefill_router.experiments.comparison import best_single, test_labels
from prefill_router.experiments.study import Study
from prefill_router.extraction.model_size import n_parameters
from prefill_router.labels.costs import MILLION, expected_costs
from prefill_router.router.cost_comparison import (
    MEAN,
    MEDIAN,
    PREDICTED,
    TRUE,
    compare_expected_costs,
)
from prefill_router.zoo.labelling import USD_PER_MILLION_TOKENS_AND_PARAMETERS

BUDGETS = (0.25, 0.5, 0.75)
"""Budgets, from what is spent at least (0) to what the dearest target costs (1)."""
SPENT, BUDGET = "spent of the budget", "budget"


def costs_by_way(study: Study) -> dict[str, list[np.ndarray]]:
    """Return costs as expected in each fold by `PREDICTED`, `MEDIAN` and `MEAN` lengths.

    A prediction that knows nothing of a query is the mean: what is gained over the median may be
    gained by any mean, what is gained over the mean is gained by telling queries apart.
    """
    n_tokens = study.activations().full_tokens
    constant = {
        way: [
            expected_costs(study.labels, study.prices, n_tokens, split.train, typical)
            for split in study.splits
        ]
        for way, typical in ((MEDIAN, np.median), (MEAN, np.mean))
    }
    return {PREDICTED: [study.expected_costs(f) for f in range(len(study.splits))]} | constant


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
) -> list[Estimate]:
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
    list of Estimate
        Of test queries. What `compare_expected_costs` reads off the curves, where true lengths are
        another way: the most that knowing them is worth. And what `compare_with_single` says of
        policies chosen on validation, the cheapest as accurate there as the best single target;
        their routers are "tolerance, predicted lengths" and so on.
    """
    rows, correct = study.test_rows, study.labels.correct
    groups, best = study.labels.group[rows], best_single(study)
    price, paid = encoder_price(study), study.costs[rows]
    read = None if price is None else study.activations().full_tokens[rows] * price / MILLION
    settings = {"encoder_cost": read, "seed": study.parameters.seed}
    expected = {way: study.over_folds(costs) for way, costs in ways.items()} | {TRUE: paid}
    found = compare_expected_costs(
        study.over_folds(p),
        test_labels(study),
        paid,
        expected,
        best,
        groups,
        targets=study.labels.targets,
        n_resamples=min(1000, study.parameters.n_resamples),
        **settings,
    )
    choices, pairs = {}, []
    for name in ("tolerance", "utility"):
        for way, costs in ways.items():
            chosen = []
            for fold, (values, cost) in enumerate(zip(p, costs, strict=True)):
                v, t = study.splits[fold].validation, study.splits[fold].test
                cheap = choose_cheapest_policy(
                    values[v], correct[v], cost[v], study.best_single[fold], name
                )
                chosen.append(np.zeros(len(values), dtype=int))
                chosen[-1][t] = cheap.choose(values[t], cost[t])
            choices[f"{name}, {way}"] = study.over_folds(chosen)
        pairs += [(f"{name}, {PREDICTED}", f"{name}, {other}") for other in (MEDIAN, MEAN)]
    return found + compare_with_single(
        choices,
        test_labels(study),
        paid,
        best,
        groups,
        pairs=pairs,
        n_resamples=study.parameters.n_resamples,
        **settings,
    )


def evaluate_budgets(
    study: Study,
    p: Sequence[np.ndarray],
    ways: Mapping[str, Sequence[np.ndarray]],
    budgets: Sequence[float] = BUDGETS,
) -> list[Estimate]:
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
    list of Estimate
        For each way of expecting costs and each `BUDGET` (USD a query, mean over folds): `SPENT`,
        what test queries really cost as a share of it, and "accuracy". A budget below what a way
        expects to be spent at least is left out.
    """
    labels, found = study.labels, []
    kept = complete(test_labels(study), study.costs[study.test_rows], labels.group[study.test_rows])
    rows, right, paid = kept.rows, kept.correct, kept.cost
    here = np.arange(len(right))
    for share in budgets:
        limits = []
        for cost, split in zip(ways[PREDICTED], study.splits, strict=True):
            least, most = (
                cost[split.validation].min(axis=1).mean(),
                cost[split.validation].mean(axis=0).max(),
            )
            limits.append(least + share * (most - least))
        limit = study.over_folds([np.full(labels.n_queries, x) for x in limits])[rows]
        for way, costs in ways.items():
            chosen = _within(study, p, costs, limits)
            if chosen is None:
                continue
            asked = chosen[rows]
            measured = intervals(
                np.column_stack([paid[here, asked] / limit, right[here, asked]]),
                kept.groups,
                n_resamples=study.parameters.n_resamples,
                seed=study.parameters.seed,
            )
            fixed = Interval(float(np.mean(limits)), np.nan, np.nan)
            label = [(f"budget at {100 * share:g} % of the range, {way}", "")]
            for metric, x in zip((BUDGET, SPENT, "accuracy"), (fixed, *measured), strict=True):
                found += rows_of(metric, label, [x], "test", len(asked))
    return found


def _within(
    study: Study, p: Sequence[np.ndarray], costs: Sequence[np.ndarray], limits: Sequence[float]
) -> np.ndarray | None:
    """Return choices on test rows within each fold's budget, or None if one cannot be met."""
    chosen = []
    for values, cost, split, limit in zip(p, costs, study.splits, limits, strict=True):
        v, t = split.validation, split.test
        if limit <= 0 or cost[v].min(axis=1).mean() > limit:
            return None
        lam = fit_budget(values[v], cost[v], limit)
        chosen.append(np.zeros(len(values), dtype=int))
        chosen[-1][t] = policy.utility(values[t], cost[t], lam)
    return study.over_folds(chosen)
