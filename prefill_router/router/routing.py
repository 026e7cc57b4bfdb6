"""One decision: which target is asked, with what was known when it was chosen, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError, check_known
from prefill_router.evaluation.tuning import fit_abstention, fit_budget
from prefill_router.router.contents import UNKNOWN, RouterConfig, Tensors

PARAMETERS = {
    "tolerance": "tau",
    "argmax": "",
    "utility": "lam",
    "budget": "budget",
    "abstain": "accuracy",
}
"""Policies, and what each can be told."""
CHOOSE = {
    "single": lambda p, c, target: np.full(len(p), int(target)),
    "argmax": lambda p, c, _: policy.argmax(p, c),
    "tolerance": policy.tolerance,
    "utility": policy.utility,
    "abstain": lambda p, c, threshold: policy.abstain(p, threshold, c),
}
"""How p and cost (N, K) and a parameter become choices (N,)."""


@dataclass(frozen=True)
class Route:
    """Where a query goes.

    Attributes
    ----------
    choice : str or None
        The target to ask; None where the policy abstains.
    p : dict of str to float
        Calibrated P(correct) of each target that could be asked.
    expected_cost : dict of str to float, or None
        In USD; None where prices are unknown.
    why : str
        The reason in words.
    """

    choice: str | None
    p: dict[str, float]
    expected_cost: dict[str, float] | None
    why: str


@dataclass(frozen=True)
class Rule:
    """A policy with all that it needs, for the targets that can be asked.

    Attributes
    ----------
    name : str
        A key of `CHOOSE`.
    parameter : float
        tau, lambda, a threshold or a place in `kept`, by policy.
    kept : ndarray of int
        Columns of the targets that can be asked.
    targets : sequence of str
        Their names.
    note : str
        What else there is to say, for `Route.why`.
    """

    name: str
    parameter: float
    kept: np.ndarray
    targets: Sequence[str]
    note: str = ""

    def choose(self, p: np.ndarray, cost: np.ndarray | None) -> np.ndarray:
        """Return which of the targets that can be asked is, (N,); `policy.NOBODY` for none."""
        p, cost = p[:, self.kept], np.zeros(p.shape) if cost is None else cost
        return CHOOSE[self.name](p, cost[:, self.kept], self.parameter)

    def routes(self, p: np.ndarray, cost: np.ndarray | None) -> list[Route]:
        """Return where each of N queries goes, by P(correct) and costs (N, K) of all targets."""
        chosen = self.choose(p, cost).tolist()
        costs = [None] * len(p) if cost is None else cost[:, self.kept].tolist()
        return [
            Route(
                None if place == policy.NOBODY else self.targets[place],
                dict(zip(self.targets, p_row, strict=True)),
                cost_row and dict(zip(self.targets, cost_row, strict=True)),
                f"{self._reason(place, p_row, cost_row)}{self.note}.",
            )
            for place, p_row, cost_row in zip(chosen, p[:, self.kept].tolist(), costs, strict=True)
        ]

    def _reason(self, place: int, p: list[float], cost: list[float] | None) -> str:
        most = max(p)
        highest = f"the highest P(correct), {most:.2f} of {self.targets[p.index(most)]}"
        match self.name:
            case "single":
                return ""  # the note says which target that is
            case "abstain":
                compared = "below" if place == policy.NOBODY else "at least"
                return f"{highest}, is {compared} {self.parameter:.3f}"
            case "tolerance" if cost is None:
                return f"{highest}; without prices none is cheaper"
            case "tolerance":
                within = int((policy.gaps(np.array([p])) <= self.parameter + policy.ROUNDING).sum())
                return f"the cheapest of {within} within {self.parameter:g} of {highest}"
            case "utility":
                worth = p[place] - self.parameter * cost[place]
                at = f"{worth:.3f} at lambda {self.parameter:.4g}"
                return f"the highest p - lambda * cost, {at}"
        return highest


def make_rule(
    config: RouterConfig,
    tensors: Tensors,
    name: str,
    exclude: Sequence[str] = (),
    **setting: float | None,
) -> Rule:
    """Settle a policy before any query is looked at.

    Parameters
    ----------
    config : RouterConfig
    tensors : mapping of str to ndarray
        The router's, of which those of validation queries are read.
    name : {"tolerance", "argmax", "utility", "budget", "abstain"}
    exclude : sequence of str
        Targets that cannot be asked now.
    **setting
        The policy's own parameter; None is as if it were not given.

        ``tau`` of ``tolerance``: by default the certified one; where nothing is certified, the best
        single target is always asked. ``lam`` of ``utility``: by default the one chosen on
        validation queries. ``budget`` of ``budget``: USD a query on average, at most; met by the
        costs that are expected of validation queries. ``accuracy`` of ``abstain``: share of right
        answers wanted among the queries that are answered; reached on validation queries, which
        all targets that can be asked must have answered.

    Returns
    -------
    Rule

    Raises
    ------
    InputError
        If a name is unknown, a parameter is missing or belongs to another policy, no target is
        left, costs are needed and unknown, the budget or the accuracy cannot be met, or ``abstain``
        is to choose a target that was added since.
    """
    check_known("policy", name, PARAMETERS)
    given = {key: value for key, value in setting.items() if value is not None}
    value = given.pop(own := PARAMETERS[name], None)
    if given:
        known = ", ".join(f"{key} of {policy}" for policy, key in PARAMETERS.items() if key)
        raise InputError(f"The policy {name!r} has no setting {min(given)!r}; there are {known}.")
    if value is None and name in ("budget", "abstain"):
        raise InputError(f"The policy {name!r} needs {own}.")
    for target in exclude:
        check_known("exclude: target", target, config.pool)
    kept = [k for k, target in enumerate(config.pool) if target not in exclude]
    if not kept:
        raise InputError("All targets are excluded, so there is none to ask.")
    p, cost = tensors["validation.p"], tensors.get("validation.cost")
    if name in ("utility", "budget") and cost is None:
        raise InputError(
            f"The policy {name!r} weighs costs, and this router was fitted without prices."
        )
    targets, note = [config.pool[k] for k in kept], ""
    match name:
        case "tolerance" if value is None:
            name, value, note = _promised(config, targets)
        case "tolerance" if not 0 <= value <= 1:
            raise InputError(f"tau is {value}; it must be from 0 to 1.")
        case "utility":
            value = config.lam if value is None else value
        case "budget":
            note = f", which is expected to spend at most {value:g} USD a query on average"
            name, value = "utility", fit_budget(p[:, kept], cost[:, kept], value)
        case "abstain":
            correct = tensors["validation.correct"][:, kept]
            correct = np.where(correct == UNKNOWN, np.nan, correct)
            never = [name for name, y in zip(targets, correct.T, strict=True) if np.isnan(y).all()]
            if never:
                raise InputError(
                    "The policy 'abstain' is settled on validation queries, which "
                    f"{', '.join(never)} never answered; leave out: exclude={never}."
                )
            share = f"{100 * value:g} % of the answers to validation queries"
            note = f", from which on {share} are right"
            value = fit_abstention(p[:, kept], correct, value)
    return Rule(name, float(value or 0), np.array(kept), targets, note)


def _promised(config: RouterConfig, targets: Sequence[str]) -> tuple[str, float, str]:
    """The tolerance that is certified, or the best single target where nothing is."""
    promise = config.guarantee
    bound = f"at most {100 * promise.max_loss:g} points below the best single target"
    if promise.tau is None:
        best, which = promise.best_single, "best single target on training queries"
        if best not in targets:
            shares = [*config.accuracy, *(record.accuracy for record in config.added)]
            known = {k: a for k, a in zip(config.pool, shares, strict=True) if a is not None}
            best = max(targets, key=lambda target: known.get(target, -1))
            which = "most accurate of those left"
        why = f"the {which}: no tolerance is certified to stay {bound}"
        return "single", targets.index(best), why
    note = f" (tau certified: {bound}, confidence {100 * promise.confidence:g} %)"
    if targets != config.certified:
        certified = ", ".join(config.certified)
        note = f" (tau was certified for {certified} together, not for those asked here)"
    return "tolerance", promise.tau, note
