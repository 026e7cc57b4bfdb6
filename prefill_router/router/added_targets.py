"""Targets added to a fitted router from a few labels, which lean on what it says of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.bootstrap import estimate, few
from prefill_router.evaluation.comparison import compare_probabilities
from prefill_router.evaluation.results import Quantity, records
from prefill_router.labels import Labels
from prefill_router.labels.costs import MILLION, Prices, query_costs
from prefill_router.router.config import AddedRecord
from prefill_router.router.evaluation import Predictions
from prefill_router.router.new_target_head import NewTargetHead
from prefill_router.router.routing import Tuned

FOLDS = 5
LEAST = 10
"""Labelled queries, at least: fewer say nothing."""
NEW, MEAN = "the new head", "the others' mean"


def fit_added(
    labels: Labels,
    p: np.ndarray,
    n_tokens: np.ndarray | None,
    prices: Prices | None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> AddedRecord:
    """Fit a new target's head, and say by held-out folds how far it can be trusted.

    Parameters
    ----------
    labels : Labels
        Of the new target alone, N queries.
    p : ndarray of shape (N, K)
        What the router predicts of its own targets on them.
    n_tokens : ndarray of shape (N,) or None
        Prompt tokens, as the encoder counts them; None where the router knows no costs.
    prices : Prices or None
        With the new target's; needed where the router knows costs and not all labels have
        `cost_usd`.
    n_resamples, seed
        Of the bootstrap and the folds.

    Returns
    -------
    AddedRecord
        What ``router.json`` keeps of it. Its metrics are the "accuracy" of the target, and AUC,
        Brier score and ECE on held-out folds of ``"the new head"``, of ``"the others' mean"``,
        which uses none of its labels, and of the difference.

    Raises
    ------
    InputError
        If there are too few labels, all are alike, or the target's costs are unknown.
    """
    [name], y = labels.targets, labels.correct[:, 0]
    known = np.flatnonzero(~np.isnan(y))
    labels, p, y = labels.take(known), p[known], y[known]
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
    accuracy = Quantity("accuracy", "single target", target=name, split="few labels")
    metrics = [
        estimate(
            {"right": y}, {accuracy: lambda m: m["right"]}, labels.group,
            n_resamples=n_resamples, seed=seed,
        ),
        compare_probabilities(
            {NEW: held, MEAN: p.mean(axis=1, keepdims=True)}, y[:, None], labels.group,
            targets=[name], folds=folds, pairs=[(NEW, MEAN)], split="held-out folds",
            n_resamples=few(n_resamples), seed=seed,
        ).query("target == ''"),
    ]  # fmt: skip
    head = NewTargetHead().fit(p, y)
    return AddedRecord(
        name=name,
        intercept=float(head.intercept_),
        weights=head.coef_others_.tolist(),
        accuracy=float(y.mean()),
        n=len(y),
        certified=False,
        metrics=records(pd.concat(metrics)),
        **({} if n_tokens is None else _costs(labels, n_tokens[known], prices)),
    )


def _costs(labels: Labels, n_tokens: np.ndarray, prices: Prices | None) -> dict[str, Any]:
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


def with_added(said: Predictions, added: Sequence[AddedRecord]) -> Predictions:
    """Return predictions (N, K) with a column more for each added target.

    Its answers are expected to be as long as they are on average, or to cost as much where labels
    gave costs themselves: few labels tell no more.
    """
    if not added:
        return said
    p, inputs, expected = _columns(said.p, added), None, None
    if said.expected is not None:
        inputs = [said.inputs, *([said.n_tokens] * len(added))]
        expected = [
            np.full(len(p), r.mean_cost)
            if r.input is None
            else (said.n_tokens * r.input + r.output_tokens * r.output) / MILLION
            for r in added
        ]
        inputs, expected = np.column_stack(inputs), np.column_stack([said.expected, *expected])
    raw = np.hstack([said.raw, p[:, said.p.shape[1] :]])
    return replace(said, raw=raw, p=p, inputs=inputs, expected=expected)


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
        p=_columns(tuned.p, added),
        cost=cost,
        correct=np.column_stack([tuned.correct, np.full((n, len(added)), np.nan)]),
        accuracy=np.append(tuned.accuracy, [record.accuracy for record in added]),
        added=sum(not record.certified for record in added),
    )


def _columns(p: np.ndarray, added: Sequence[AddedRecord]) -> np.ndarray:
    """Return probabilities (N, K) with a column more for each added target."""
    heads = []
    for record in added:
        head = NewTargetHead()
        head.intercept_, head.coef_ = record.intercept, np.empty(0)
        head.coef_others_ = np.array(record.weights)
        heads.append(head)
    return np.column_stack([p, *(head.predict_proba(p) for head in heads)])
