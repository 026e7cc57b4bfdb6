"""Targets added to a fitted router from a few labels, which lean on what it says of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.model_selection import GroupKFold

from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.choices import evaluate_choices
from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.probabilities import evaluate_probabilities
from prefill_router.labels import Labels
from prefill_router.labels.costs import MILLION, Prices, query_costs
from prefill_router.router.config import AddedRecord, MetricRecord
from prefill_router.router.new_target_head import NewTargetHead
from prefill_router.router.routing import Tuned

FOLDS = 5
LEAST = 10
"""Labelled queries, at least: fewer say nothing."""


def fit_added(
    labels: Labels,
    p: np.ndarray,
    n_tokens: np.ndarray,
    prices: Prices | None,
    priced: bool,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[AddedRecord, list[Estimate]]:
    """Fit a new target's head, and say by held-out folds how far it can be trusted.

    Parameters
    ----------
    labels : Labels
        Of the new target alone, N queries.
    p : ndarray of shape (N, K)
        What the router predicts of its own targets on them.
    n_tokens : ndarray of shape (N,)
        Prompt tokens, as the encoder counts them.
    prices : Prices or None
        With the new target's; needed where the router knows costs and not all labels have
        `cost_usd`.
    priced : bool
        Whether it does.
    n_resamples, seed
        Of the bootstrap and the folds.

    Returns
    -------
    record : AddedRecord
        What ``router.json`` keeps of it.
    estimates : list of Estimate
        "accuracy" of the target, and AUC, Brier score and ECE on held-out folds of "the new head"
        and of "the others' mean", which uses none of its labels; with "AUC difference".

    Raises
    ------
    InputError
        If there are too few labels, all are alike, or the target's costs are unknown.
    """
    [name], y = labels.targets, labels.correct[:, 0]
    known = np.flatnonzero(~np.isnan(y))
    labels, p, n_tokens, y = labels.take(known), p[known], n_tokens[known], y[known]
    n_groups = len(np.unique(labels.group))
    if n_groups < LEAST:
        raise InputError(f"{name!r} has labels of {n_groups} queries; give {LEAST} at least.")
    if len(np.unique(y)) < 2:
        raise InputError(
            f"{name!r} is {'right' if y[0] else 'wrong'} on all of its {len(y)} labelled queries; "
            "give more of them, easier and harder ones."
        )
    held, folds = np.empty((len(y), 1)), np.empty(len(y), dtype=int)
    splits = GroupKFold(FOLDS, shuffle=True, random_state=seed).split(p, groups=labels.group)
    for fold, (fit, rest) in enumerate(splits):
        held[rest, 0] = NewTargetHead().fit(p[fit], y[fit]).predict_proba(p[rest])
        folds[rest] = fold  # heads of different folds differ in level, which is no failure to rank
    estimates = evaluate_choices(
        {},
        y[:, None],
        None,
        0,
        labels.group,
        targets=[name],
        split="few labels",
        n_resamples=n_resamples,
        seed=seed,
    )
    estimates = [row for row in estimates if (row.metric, row.target) == ("accuracy", name)]
    routers = {"the new head": held, "the others' mean": p.mean(axis=1, keepdims=True)}
    estimates += [
        row
        for row in evaluate_probabilities(
            routers, y[:, None], labels.group, targets=[name], folds=folds, primary="the new head",
            split="held-out folds", n_resamples=n_resamples, seed=seed,
        )
        if not row.target
    ]  # fmt: skip
    head = NewTargetHead().fit(p, y)
    record = AddedRecord(
        name=name,
        intercept=float(head.intercept_),
        weights=head.coef_others_.tolist(),
        accuracy=float(y.mean()),
        n=len(y),
        certified=False,
        metrics=[MetricRecord.of(row) for row in estimates],
        **(_costs(labels, n_tokens, prices) if priced else {}),
    )
    return record, estimates


def _costs(labels: Labels, n_tokens: np.ndarray, prices: Prices | None) -> dict[str, float]:
    """Return the mean cost of a new target; with price and mean length, where they are known."""
    [name], tokens = labels.targets, labels.output_tokens[:, 0]
    has_price = prices is not None and name in prices.input
    if not has_price and np.isnan(labels.cost_usd).any():
        hint = did_you_mean(name, prices.input) if prices else ""
        raise InputError(
            f"The router knows costs, so the price of {name!r} is needed; add it to the price "
            f"table (prices), with 0 if it is free, or give cost_usd of every answer.{hint}"
        )
    costs = {"mean_cost": float(query_costs(labels, prices, n_tokens).mean())}
    if not has_price or np.isnan(tokens).all():
        return costs
    return costs | {
        "input": prices.input[name],
        "output": prices.output[name],
        "output_tokens": float(np.nanmean(tokens)),
    }


def with_added(p: np.ndarray, added: Sequence[AddedRecord]) -> np.ndarray:
    """Return probabilities (N, K) with a column more for each added target."""
    columns = [_head(record).predict_proba(p) for record in added]
    return np.column_stack([p, *columns]) if columns else p


def with_added_costs(
    expected: np.ndarray | None, n_tokens: np.ndarray, added: Sequence[AddedRecord]
) -> np.ndarray | None:
    """Return expected costs (N, K) with a column more for each added target.

    Its answers are expected to be as long as they are on average, or to cost as much where labels
    gave costs themselves: few labels tell no more.
    """
    if expected is None or not added:
        return expected
    columns = [
        np.full(len(n_tokens), r.mean_cost)
        if r.input is None
        else (n_tokens * r.input + r.output_tokens * r.output) / MILLION
        for r in added
    ]
    return np.column_stack([expected, *columns])


def tuned_with_added(tuned: Tuned, added: Sequence[AddedRecord]) -> Tuned:
    """Return what policies need to know, with the added targets; never asked on validation."""
    if not added:
        return tuned
    n = len(tuned.p)
    cost = tuned.cost
    if cost is not None:
        cost = np.column_stack([cost, *(np.full(n, record.mean_cost) for record in added)])
    return replace(
        tuned,
        p=with_added(tuned.p, added),
        cost=cost,
        correct=np.column_stack([tuned.correct, np.full((n, len(added)), np.nan)]),
        accuracy=np.append(tuned.accuracy, [record.accuracy for record in added]),
        added=sum(not record.certified for record in added),
    )


def _head(record: AddedRecord) -> NewTargetHead:
    head = NewTargetHead()
    head.intercept_, head.coef_ = record.intercept, np.empty(0)
    head.coef_others_ = np.array(record.weights)
    return head
