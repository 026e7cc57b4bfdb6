"""Every router on the same test queries, by every metric: one list of results for a chapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from prefill_router.evaluation.choices import BEST, evaluate_best_single
from prefill_router.evaluation.curve_evaluation import evaluate_curves
from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.metrics import auc, brier, gap_closed, macro
from prefill_router.evaluation.mistakes import evaluate_mistakes, evaluate_win_rates
from prefill_router.evaluation.significance import evaluate_significance, seed_deviation
from prefill_router.experiments.challenge import CHALLENGER, Challenge
from prefill_router.experiments.comparison import (
    Routed,
    apply_policies,
    best_single,
    compare_choices,
    compare_probabilities,
    reference_choices,
    route,
    test_labels,
)
from prefill_router.experiments.networks import network_predictions
from prefill_router.experiments.routers import (
    ACCURACY,
    BENCHMARK,
    CONTROLS,
    CPU_EPOCH,
    LOGISTIC,
    NEIGHBOURS,
    PRIMARY,
    ROUTERS,
    TFIDF,
    TREES,
    UNTRAINED,
    configurations,
    router_names,
)
from prefill_router.experiments.study import Study
from prefill_router.policy import argmax

RIVALS = (CHALLENGER, PRIMARY, LOGISTIC, TREES, TFIDF, NEIGHBOURS, BENCHMARK)
"""Routers whose pairwise win rates are reported, beside the best single target's."""
FRUGAL = ", frugal"
FIRST = (CHALLENGER, PRIMARY)
"""Those that are compared with all others."""
NO_ROUTERS = (*CONTROLS, ACCURACY)
"""What shows that a result is real rather than competes: not corrected for."""


def all_routed(study: Study, found: Challenge, full: bool) -> dict[str, Routed]:
    """Return what every router does with the test queries, the frozen challenger first.

    `full` as for `router_names`.
    """
    routed = {CHALLENGER: apply_policies(study, found.p)}
    return routed | {name: route(study, name) for name in router_names(study, full)}


def absent(study: Study, full: bool, shown: Collection[str] = ()) -> list[str]:
    """Return sentences on which routers this study has no row of, and why; `shown` ones have."""
    present = {*router_names(study, full), *shown}
    reasons = {}
    for name in (n for n in ROUTERS if n not in present):
        if ROUTERS[name].full and not full:
            reason = "only full runs fit them"
        elif ROUTERS[name].full:
            reason = f"an epoch of it takes more than {CPU_EPOCH:.0e} operations on a CPU"
        elif name == UNTRAINED:
            reason = "the study names no untrained encoder"
        else:
            reason = "the study compares no second encoder"
        reasons.setdefault(reason, []).append(name)
    return [f"Left out, since {why}: {'; '.join(names)}." for why, names in reasons.items()]


def standings(study: Study, routed: Mapping[str, Routed]) -> list[Estimate]:
    """Evaluate routers on the test queries.

    Returns
    -------
    list of Estimate
        Of `compare_choices` (with what the frugal policies do, named ", frugal", and differences to
        `PRIMARY` and to `CHALLENGER`), `compare_probabilities` averaged over targets,
        `evaluate_curves` and `evaluate_mistakes`; win rates among `RIVALS`; p-values; what choosing
        the best single target on test would change; deviations between seeds; and how many
        configurations of each router were compared.
    """
    return [
        *_choices(study, routed),
        *_probabilities(study, routed),
        *_curves(study, routed),
        *_mistakes(study, routed),
        *_significance(study, routed),
        *_seeds(study),
        *_tried(study, routed),
    ]


def _settings(study: Study) -> dict[str, int]:
    return {"n_resamples": study.parameters.n_resamples, "seed": study.parameters.seed}


def _choices(study: Study, routed: Mapping[str, Routed]) -> list[Estimate]:
    choices = {name: r.choice for name, r in routed.items()} | reference_choices(study)
    rows = compare_choices(study, choices, PRIMARY)
    rows += _differences(compare_choices(study, choices, CHALLENGER))
    if study.has_costs:
        frugal = {f"{name}{FRUGAL}": r.frugal for name, r in routed.items()}
        rows += [row for row in compare_choices(study, frugal) if row.router in frugal]
    groups = study.labels.group[study.test_rows]
    return rows + evaluate_best_single(
        test_labels(study), best_single(study), groups, **_settings(study)
    )


def _probabilities(study: Study, routed: Mapping[str, Routed]) -> list[Estimate]:
    p = {name: r.p for name, r in routed.items()}
    rows = compare_probabilities(study, p)
    rows += _differences(compare_probabilities(study, {n: p[n] for n in FIRST}, CHALLENGER))
    return [row for row in rows if not row.target]


def _differences(rows: list[Estimate]) -> list[Estimate]:
    return [row for row in rows if row.metric.endswith("difference")]


def _curves(study: Study, routed: Mapping[str, Routed]) -> list[Estimate]:
    if not study.has_costs:
        return []
    cost = study.costs[study.test_rows]
    weak, strong = int(cost.mean(axis=0).argmin()), study.best_single[0]
    return evaluate_curves(
        {name: r.p for name, r in routed.items()},
        test_labels(study),
        cost,
        study.over_folds([study.expected_costs(fold) for fold in range(len(study.splits))]),
        study.labels.group[study.test_rows],
        pair=(weak, strong) if weak != strong else None,
        best_single=best_single(study),
        n_resamples=min(100, study.parameters.n_resamples),
        seed=study.parameters.seed,
    )


def _mistakes(study: Study, routed: Mapping[str, Routed]) -> list[Estimate]:
    Y, groups = test_labels(study), study.labels.group[study.test_rows]
    choices = {name: r.choice for name, r in routed.items()}
    p = {name: r.p for name, r in routed.items()}
    rows = evaluate_mistakes(p, choices, Y, groups, **_settings(study))
    rivals = {name: choices[name] for name in RIVALS if name in choices}
    rivals[BEST] = best_single(study)
    return rows + evaluate_win_rates(rivals, Y, groups, **_settings(study))


def _significance(study: Study, routed: Mapping[str, Routed]) -> list[Estimate]:
    """p-values of the challenger and of the recipe against every other router, and the power.

    The two are compared once, among the challenger's hypotheses: in both families the same
    difference would have two corrected p-values. Controls and what always asks the same target are
    no hypotheses of ours, and not corrected for.
    """
    Y, groups = test_labels(study), study.labels.group[study.test_rows]
    choices = {name: r.choice for name, r in routed.items() if name not in NO_ROUTERS}
    n = int((~np.isnan(Y).any(axis=1)).sum())
    rows = []
    for name in FIRST:
        # Few resamples, as a reduced run has, could reject nothing after Holm's correction.
        seed = study.parameters.seed
        table = evaluate_significance(choices, Y, groups, primary=name, seed=seed)
        choices.pop(name)
        for other in table.itertuples():
            pair = f"{name} - {other.router}"
            for metric, value in (
                ("p-value", other.p),
                ("p-value (Holm)", other.p_holm),
                ("detectable difference", other.detectable),
            ):
                rows.append(_plain(metric, pair, value, n))
    return rows


def _seeds(study: Study) -> list[Estimate]:
    """Standard deviations between the recipe's single networks, where several are kept."""
    if study.parameters.keep < 2:
        return []
    Y, best = test_labels(study), best_single(study)
    complete = ~np.isnan(Y).any(axis=1)
    rows = np.arange(complete.sum())
    right = Y[complete]

    def closed(p: np.ndarray) -> float:
        chosen = right[rows, argmax(p[complete])].mean()
        return gap_closed(chosen, right[rows, best[complete]].mean(), right.max(axis=1).mean())

    by_seed = network_predictions(study)
    metrics = {
        "gap closed": closed,
        "AUC": lambda p: macro(auc(p, Y)),
        "Brier": lambda p: macro(brier(p, Y)),
    }
    return [
        _plain(f"deviation between seeds, {name}", PRIMARY, seed_deviation(by_seed, metric), len(Y))
        for name, metric in metrics.items()
    ]


def _tried(study: Study, routed: Mapping[str, Routed]) -> list[Estimate]:
    names = [name for name in routed if name != CHALLENGER]
    return [
        _plain("configurations tried", name, configurations(study, name), len(study.test_rows))
        for name in names
    ]


def _plain(metric: str, router: str, value: float, n: int) -> Estimate:
    return Estimate(metric, router, "", "test", float(value), np.nan, np.nan, n)
