"""What routing spends: by predicted against median lengths of answers, and within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from operator import itemgetter

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import Values
from prefill_router.evaluation.comparison import (
    BEST,
    ENCODER_INCLUDED,
    SAVING_AGAINST_BEST,
    Evaluation,
    differences,
)
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.evaluation.tuning import POLICIES, choose_parameter, fit_budget, tied_lambdas
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import n_parameters
from prefill_router.labels.costs import MILLION, expected_costs
from prefill_router.metrics import cost_saving, ratio
from prefill_router.zoo.labelling import USD_PER_MILLION_TOKENS_AND_PARAMETERS

PREDICTED, TRUE = "predicted lengths", "true lengths"
MEDIAN, MEAN = "median lengths", "mean lengths"
"""The same for every query: as the paper expects, and what a prediction that knows nothing is."""
SAVING = "saving at equal accuracy"
ERROR = "error of the expected cost"
POINTS = 256  # tolerances, and lambdas, at which a curve is looked at
CURVES_DRAWN = 1000  # resamples at most
BUDGETS = (0.25, 0.5, 0.75)
"""Budgets, from what is spent at least (0) to what the dearest target costs (1)."""
SPENT, BUDGET = "spent of the budget", "budget"
ByFold = Sequence[np.ndarray]


def spending(study: Study, p: ByFold) -> pd.DataFrame:
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
    choices = {}
    for rule, (way, costs) in product(POLICIES, ways.items()):
        fitted = [
            choose_parameter(q[s.validation], correct[s.validation], cost[s.validation], rule, best)
            for q, cost, s, best in zip(p, costs, study.splits, study.best_single, strict=True)
        ]
        choices[f"{rule}, {way}"] = _route(study, rule, p, costs, fitted)[at.rows]
    pairs = [(f"{rule}, {PREDICTED}", f"{rule}, {way}") for rule in POLICIES for way in ways]
    pairs = [(a, b) for a, b in pairs if a != b] + [(name, BEST) for name in choices]
    found = at.choices(choices, pairs, encoder_cost=read)
    wanted = ["accuracy", SAVING_AGAINST_BEST, SAVING_AGAINST_BEST + ENCODER_INCLUDED]
    chosen = select(found, metric=wanted, router=list(choices), versus=None)
    return pd.concat([compare_costs(at, at.join(p), expected, read), chosen], ignore_index=True)


def _route(study: Study, rule: str, p: ByFold, costs: ByFold, fitted: list[float]) -> np.ndarray:
    """Choose targets of all test queries, (N,), by a policy with each fold's fitted parameter."""
    chosen = np.zeros(study.labels.n_queries, dtype=int)
    for q, cost, split, parameter in zip(p, costs, study.splits, fitted, strict=True):
        chosen[split.test] = POLICIES[rule](q[split.test], cost[split.test], parameter)
    return chosen


def compare_costs(
    at: Evaluation,
    p: np.ndarray,
    expected: Mapping[str, np.ndarray],
    encoder_cost: np.ndarray | None = None,
) -> pd.DataFrame:
    """Compare what routing saves by different expectations of what answers will cost.

    Parameters
    ----------
    at : Evaluation
        N queries with their costs; incomplete ones are left out.
    p : ndarray of shape (N, K)
        Predicted P(correct).
    expected : mapping of str to ndarray of shape (N, K)
        Expected costs by how they were found. The first is compared with every other.
    encoder_cost : ndarray of shape (N,), optional
        What the encoder's prefill costs, in USD: only routing pays it. Default: unknown, and then
        no saving includes it.

    Returns
    -------
    pandas.DataFrame
        Results. Of router ``"tolerance, WAY"`` and ``"utility, WAY"`` the `SAVING` against the best
        single target at the cheapest setting that is as accurate on these queries, and the first
        way's difference from each other (`versus`); the same with `ENCODER_INCLUDED`. Of each way
        and target the root mean squared `ERROR`, as a share of its mean cost, and its difference.

    Notes
    -----
    The setting is found anew in every resample, on the queries it is reported on: this says what
    the curves hold. Resamples in which a curve is nowhere as accurate are left out.
    """
    rows, kept = at.complete()
    p, cost = np.asarray(p, dtype=np.float64)[rows], kept.cost
    seen = {way: np.asarray(values, dtype=np.float64)[rows] for way, values in expected.items()}
    first, *others = seen
    chosen = {f"{rule}, {way}": _choices(rule, p, seen[way]) for rule in POLICIES for way in seen}
    names = [*chosen]
    chosen[BEST] = np.broadcast_to(kept.best_single, len(p))[:, None]
    columns = {
        (what, name): np.take_along_axis(values, k, axis=1)
        for what, values in (("right", kept.correct), ("cost", cost))
        for name, k in chosen.items()
    }

    def saving(m: Values, name: str, encoder: np.ndarray | float = 0.0) -> np.ndarray:
        enough = m["right", name] >= m["right", BEST] - policy.ROUNDING
        least = np.where(enough, m["cost", name], np.inf).min(axis=1, keepdims=True)
        least[np.isinf(least)] = np.nan
        return cost_saving(least + encoder, m["cost", BEST])[:, 0]

    pairs = [(f"{rule}, {first}", f"{rule}, {way}") for rule in POLICIES for way in others]
    quantities = differences({SAVING: saving}, names, pairs)
    if encoder_cost is not None:
        columns["encoder"] = np.asarray(encoder_cost)[rows, None]
        included = {SAVING + ENCODER_INCLUDED: lambda m, a: saving(m, a, m["encoder"])}
        quantities |= differences(included, names)
    found = [kept.estimate(columns, quantities, CURVES_DRAWN, centred=True)]
    ways = [way for way, values in seen.items() if not np.array_equal(values, cost)]
    if ways:
        errors = {way: (seen[way] - cost) ** 2 for way in ways} | {"cost": cost}
        share = {ERROR: lambda m, a: ratio(np.sqrt(m[a]), m["cost"])}
        pairs = [(ways[0], way) for way in ways[1:]]
        quantities = differences(share, ways, pairs, kept.targets)
        found.append(kept.estimate(errors, quantities, CURVES_DRAWN))
    return pd.concat(found, ignore_index=True)


def _choices(rule: str, p: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return what a policy chooses at settings over its whole range, (N, at most `POINTS`)."""
    is_tolerance = rule == "tolerance"
    changes = policy.gaps(p) if is_tolerance else tied_lambdas(p, cost)
    n_settings = POINTS if is_tolerance else POINTS - 1  # no tie is at 0, but gaps are
    settings = np.quantile(changes, np.linspace(0, 1, n_settings)) if changes.size else []
    choose = POLICIES[rule]
    return np.column_stack([choose(p, cost, x) for x in np.unique(np.r_[0.0, settings])])


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
    (_, kept), found = held_out(study).complete(), [results()]
    known = [of[s.validation] for of, s in zip(ways[PREDICTED], study.splits, strict=True)]
    least = np.array([costs.min(axis=1).mean() for costs in known])
    most = np.array([costs.mean(axis=0).max() for costs in known])
    for share, (way, costs) in product(budgets, ways.items()):
        limits = least + share * (most - least)
        if not (limits > 0).all():  # all is free
            continue
        try:
            fitted = [
                fit_budget(q[s.validation], cost[s.validation], limit)
                for q, cost, s, limit in zip(p, costs, study.splits, limits, strict=True)
            ]
        except InputError:  # it expects to spend more in any case
            continue
        chosen = _route(study, "utility", p, costs, fitted)[kept.rows]
        of, cells = {"router": way, "x": share, "n": len(chosen)}, np.arange(len(chosen))
        spent = kept.cost[cells, chosen] / limits[kept.folds]
        columns = {SPENT: spent, "accuracy": kept.correct[cells, chosen]}
        quantities = {Quantity(metric, **of): itemgetter(metric) for metric in columns}
        found.append(results([counted(Quantity(BUDGET, **of), np.mean(limits))]))
        found.append(kept.estimate(columns, quantities))
    return pd.concat(found, ignore_index=True)
