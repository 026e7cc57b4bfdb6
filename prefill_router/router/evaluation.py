"""How good a router is on labelled queries that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefill_router.evaluation.bootstrap import few
from prefill_router.evaluation.choices import evaluate_choices
from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.probabilities import evaluate_probabilities
from prefill_router.labels import Labels
from prefill_router.router.parts import Parts
from prefill_router.router.routing import Rule, Tuned, make_rule


def evaluate(
    parts: Parts,
    labels: Labels,
    tau: float,
    raw: np.ndarray,
    p: np.ndarray,
    expected: np.ndarray | None,
    cost: np.ndarray | None,
    split: str,
    n_resamples: int,
    seed: int,
) -> list[Estimate]:
    """Evaluate a router's policies and probabilities on labels it was not fitted to.

    Parameters
    ----------
    parts : Parts
    labels : Labels
        N queries.
    tau : float
        The tolerance chosen on validation rows.
    raw, p : ndarray of shape (N, K)
        P(correct) before and after calibration.
    expected, cost : ndarray of shape (N, K) or None
        Costs as expected beforehand, and as they turned out.
    split, n_resamples, seed
        As in `prefill_router.evaluation.choices.evaluate_choices`.

    Returns
    -------
    list of Estimate
        Those of `evaluate_choices` and of `evaluate_probabilities`.
    """
    rules = rules_of(parts.tuned, labels.targets, tau, expected is not None)
    shared = {"targets": labels.targets, "split": split, "seed": seed}
    found = evaluate_choices(
        {name: rule.choose(p, expected) for name, rule in rules.items()},
        labels.correct,
        cost,
        labels.targets.index(parts.tuned.guarantee.best_single),
        labels.group,
        n_resamples=n_resamples,
        **shared,
    )
    return found + evaluate_probabilities(
        {"calibrated": p, "uncalibrated": raw},
        labels.correct,
        labels.group,
        n_resamples=few(n_resamples),
        **shared,
    )


def rules_of(tuned: Tuned, targets: Sequence[str], tau: float, priced: bool) -> dict[str, Rule]:
    """Return the policies that are evaluated, by name."""
    rules = {
        "argmax": make_rule("argmax", tuned, targets),
        "tolerance": make_rule("tolerance", tuned, targets, tau=tau),
        "certified": make_rule("tolerance", tuned, targets),
    }
    return rules | ({"utility": make_rule("utility", tuned, targets)} if priced else {})
