"""A head for a target with few labels, which leans on the others; targets added by it later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.model_selection import GroupKFold

from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import Evaluation
from prefill_router.evaluation.results import Quantity, records
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices
from prefill_router.recipe.cost_prediction import fit_costs
from prefill_router.router.contents import (
    UNKNOWN,
    AddedRecord,
    PriceTable,
    RouterConfig,
    Tensors,
    prefixed,
)

if TYPE_CHECKING:
    from prefill_router.router.predictions import Predictions

FOLDS = 5
LEAST = 10
"""Labelled queries, at least: fewer say nothing."""
CLIP = 1e-3  # a predicted probability says no more than odds of 999 to 1
NEW, MEAN = "the new head", "the others' mean"


@dataclass(eq=False)
class NewTargetHead:
    r"""Logistic regression whose prior is that a new target finds hard what the others find hard.

    .. math::

        \operatorname{logit} P(\text{right on } i) = \bar z_i + a + \sum_j w_j z_{ij}, \qquad
        z_{ij} = \operatorname{logit} p_{ij}, \quad \bar z_i = \tfrac1K \sum_j z_{ij}

    The other targets' predictions p make up the shared difficulty; a is how able the new target is
    beyond the others, and w which of them it resembles.

    Parameters
    ----------
    ability : float, default 1.0
        Prior variance of a, in squared logits.
    likeness : float, default 0.1
        Prior variance of each w.

    Attributes
    ----------
    intercept_ : float
        a.
    coef_ : ndarray of shape (K,)
        1 / K + w.

    Notes
    -----
    Both priors are normal with mean zero, and the fit is the most probable one: without any label
    it is the others' mean logit. With likeness at 0 it is the Rasch model with known difficulties,
    a the ability.

    References
    ----------
    Rasch, "Probabilistic Models for Some Intelligence and Attainment Tests", 1960.
    """

    ability: float = 1.0
    likeness: float = 0.1

    def fit(self, p_others: np.ndarray, y: np.ndarray) -> NewTargetHead:
        """Fit to a new target's labels.

        Parameters
        ----------
        p_others : ndarray of shape (N, K)
            P(correct) predicted for the K other targets, by a model not fitted to these queries.
        y : ndarray of shape (N,)
            1 right, 0 wrong, NaN never asked (the query then says nothing).
        """
        known = ~np.isnan(y)
        z, signs = _logits(p_others[known]), 2 * y[known] - 1
        deviations = np.sqrt(np.repeat([self.ability, self.likeness], [1, z.shape[1]]))
        design = (
            np.column_stack([np.ones(len(z)), z]) * deviations
        )  # so that priors have variance 1
        offset = z.mean(axis=1)

        def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
            margins = signs * (offset + design @ theta)
            loss = np.logaddexp(0, -margins).sum() + theta @ theta / 2
            return loss, theta - design.T @ (signs * expit(-margins))

        start, options = 0 * deviations, {"maxiter": 1000, "gtol": 1e-6, "ftol": 1e-12}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        theta = found.x * deviations
        self.intercept_, self.coef_ = float(theta[0]), 1 / z.shape[1] + theta[1:]
        return self

    def predict_proba(self, p_others: np.ndarray) -> np.ndarray:
        """Return the new target's P(correct), (n,), from `p_others` (n, K)."""
        return expit(self.intercept_ + _logits(p_others) @ self.coef_)


def _logits(p: np.ndarray) -> np.ndarray:
    return logit(np.asarray(p, dtype=np.float64).clip(CLIP, 1 - CLIP))


def fit_added(labels: Labels, p: np.ndarray, n_resamples: int = 2000, seed: int = 0) -> AddedRecord:
    """Fit a new target's head, and say by held-out folds how far it can be trusted.

    Parameters
    ----------
    labels : Labels
        Of the new target alone: N queries that it was asked.
    p : ndarray of shape (N, K)
        What the router predicts on them of the targets that it was fitted to.
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
        If there are too few labels, or all are alike.
    """
    [name], y = labels.targets, labels.correct[:, 0]
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
    accuracy = Quantity("accuracy", "single target", target=name)
    at = Evaluation(
        y[:, None], groups=labels.group, targets=[name], folds=folds, split="few labels",
        n_resamples=n_resamples, seed=seed,
    )  # fmt: skip
    of_folds = replace(at, split="held-out folds")
    both = {NEW: held, MEAN: p.mean(axis=1, keepdims=True)}
    metrics = [
        at.estimate({"right": y}, {accuracy: lambda m: m["right"]}),
        of_folds.probabilities(both, [(NEW, MEAN)]).query("target == ''"),
    ]
    head = NewTargetHead().fit(p, y)
    return AddedRecord(
        name=name,
        intercept=float(head.intercept_),
        weights=head.coef_.tolist(),
        accuracy=float(y.mean()),
        n=len(y),
        certified=False,
        metrics=records(pd.concat(metrics)),
    )


def add_columns(added: Sequence[AddedRecord], p: np.ndarray) -> np.ndarray:
    """Return P(correct) of K targets, (N, K), with a column more for each added one."""
    z = _logits(p)
    return np.column_stack([p, *(expit(r.intercept + z @ np.array(r.weights)) for r in added)])


def widen(
    config: RouterConfig,
    tensors: Tensors,
    asked: Predictions,
    prices: Prices | None,
    n_resamples: int,
    seed: int,
) -> tuple[RouterConfig, dict[str, np.ndarray]]:
    """Return what a router says of itself, and its tensors, with a column more for a new target.

    Parameters
    ----------
    config, tensors
        Of the router before.
    asked : Predictions
        Of the queries that the new target was asked, with its labels alone.
    prices : Prices or None
        With the new target's; needed where the router knows costs and not all labels have
        `cost_usd`.
    n_resamples, seed
        As for `fit_added`.
    """
    labels, n_targets, held = asked.labels, len(config.targets), tensors["validation.p"]
    record = fit_added(labels, asked.p[:, :n_targets], n_resamples, seed)
    columns = {
        "validation.p": add_columns([record], held[:, :n_targets])[:, -1:],
        "validation.correct": np.full((len(held), 1), UNKNOWN, np.int8),
    }
    changed = {"added": [*config.added, record]}
    if config.prices is not None:
        # of features that are all alike: answers as long as on average, few labels tell no more
        alike = np.zeros((labels.n_queries, len(tensors["lengths.slopes"])))
        rows, n_tokens = np.arange(labels.n_queries), asked.n_tokens
        costs = fit_costs(labels, prices, alike, rows, n_tokens)
        mean = costs.expected(alike, n_tokens[:, None]).mean()
        columns["validation.cost"] = np.full((len(held), 1), mean)
        columns |= prefixed("lengths", vars(costs.lengths))
        old, new = config.prices, PriceTable.of(costs, labels.targets, prices)
        sides = {"input": old.input | new.input, "output": old.output | new.output}
        changed["prices"] = old.model_copy(update=sides)
    wider = {name: np.concatenate([tensors[name], c], axis=-1) for name, c in columns.items()}
    return config.model_copy(update=changed), {**tensors, **wider}
