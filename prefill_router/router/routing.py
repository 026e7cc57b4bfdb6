"""One decision: which target is asked, with what was known when it was chosen, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.tuning import fit_abstention, fit_budget
from prefill_router.router.guarantee import Guarantee

PARAMETERS = {
    "tolerance": "tau",
    "argmax": "",
    "utility": "lam",
    "budget": "budget",
    "abstain": "accuracy",
}
"""Policies, and what each can be told."""


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
class Tuned:
    """What policies need to know beforehand, from the queries that a router was fitted to.

    Attributes
    ----------
    p : ndarray of shape (n, K)
        Calibrated P(correct) of validation queries.
    cost : ndarray of shape (n, K) or None
        Their expected costs in USD.
    correct : ndarray of shape (n, K)
        Their labels; NaN never asked.
    tau, lam : float
        Of the policies tolerance and utility, chosen on them.
    accuracy : ndarray of shape (K,)
        Of each target on training queries.
    guarantee : Guarantee
        What tolerance can be promised.
    added : int
        Targets added since, which that promise does not cover.
    """

    p: np.ndarray
    cost: np.ndarray | None
    correct: np.ndarray
    tau: float
    lam: float
    accuracy: np.ndarray
    guarantee: Guarantee
    added: int = 0


@dataclass(frozen=True)
class Rule:
    """A policy with all that it needs, for the targets that can be asked.

    Attributes
    ----------
    name : str
        A policy's, or ``"single"``: always the same target.
    parameter : float
        tau, lambda, a threshold or a place in `kept`, by policy.
    kept : ndarray of int
        Columns of the targets that can be asked.
    note : str
        What else there is to say, for `Route.why`.
    """

    name: str
    parameter: float
    kept: np.ndarray
    note: str = ""

    def choose(self, p: np.ndarray, cost: np.ndarray | None) -> np.ndarray:
        """Return the chosen columns (N,) of `p` and `cost` (N, K); `policy.NOBODY` for none."""
        p = p[:, self.kept]
        c = np.zeros_like(p) if cost is None else cost[:, self.kept]
        match self.name:
            case "single":
                chosen = np.full(len(p), int(self.parameter))
            case "argmax":
                chosen = policy.argmax(p, c)
            case "tolerance":
                chosen = policy.tolerance(p, c, self.parameter)
            case "abstain":
                chosen = policy.abstain(p, self.parameter, c)
            case _:
                chosen = policy.utility(p, c, self.parameter)
        return np.where(chosen == policy.NOBODY, policy.NOBODY, self.kept[chosen])

    def why(self, choice: int, p: np.ndarray, cost: np.ndarray | None, targets) -> str:
        """Return the reason of one choice; `p` and `cost` (K,)."""
        best = self.kept[p[self.kept].argmax()]
        highest = f"the highest P(correct), {p[best]:.2f} of {targets[best]}"
        match self.name:
            case "single":
                reason = ""  # the note says which target that is
            case "argmax":
                reason = highest
            case "abstain" if choice == policy.NOBODY:
                reason = f"{highest}, is below {self.parameter:.3f}"
            case "abstain":
                reason = f"{highest}, is at least {self.parameter:.3f}"
            case "tolerance" if cost is None:
                reason = f"{highest}; without prices none is cheaper"
            case "tolerance":
                gap = policy.gaps(p[None, self.kept])[0]
                within = int((gap <= self.parameter + policy.ROUNDING).sum())
                reason = f"the cheapest of {within} within {self.parameter:g} of {highest}"
            case _:
                worth = p[choice] - self.parameter * cost[choice]
                reason = (
                    f"the highest p - lambda * cost, {worth:.3f} at lambda {self.parameter:.4g}"
                )
        return f"{reason}{self.note}."

    def routes(self, p: np.ndarray, cost: np.ndarray | None, targets: Sequence[str]) -> list[Route]:
        """Return where each of N queries goes."""
        kept = [(int(k), targets[k]) for k in self.kept]
        routes = []
        for row, choice in enumerate(self.choose(p, cost)):
            costs = None if cost is None else cost[row]
            routes.append(
                Route(
                    None if choice == policy.NOBODY else targets[choice],
                    {name: float(p[row, k]) for k, name in kept},
                    None if costs is None else {name: float(costs[k]) for k, name in kept},
                    self.why(choice, p[row], costs, targets),
                )
            )
        return routes


def make_rule(
    name: str,
    tuned: Tuned,
    targets: Sequence[str],
    *,
    tau: float | None = None,
    lam: float | None = None,
    budget: float | None = None,
    accuracy: float | None = None,
    exclude: Sequence[str] = (),
) -> Rule:
    """Settle a policy before any query is looked at.

    Parameters
    ----------
    name : {"tolerance", "argmax", "utility", "budget", "abstain"}
    tuned : Tuned
    targets : sequence of str
        Names of the K targets.
    tau : float, optional
        Of ``tolerance``. Default: the certified one; where nothing is certified, the best single
        target is always asked.
    lam : float, optional
        Of ``utility``. Default: the one chosen on validation queries.
    budget : float
        Of ``budget``: USD a query on average, at most; met by the costs that are expected of
        validation queries.
    accuracy : float
        Of ``abstain``: share of right answers wanted among the queries that are answered; reached
        on validation queries, which all targets that can be asked must have answered.
    exclude : sequence of str
        Targets that cannot be asked now.

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
    if name not in PARAMETERS:
        raise InputError(f"Unknown policy {name!r}.{did_you_mean(name, PARAMETERS)}")
    given = {"tau": tau, "lam": lam, "budget": budget, "accuracy": accuracy}
    for other, parameter in PARAMETERS.items():
        if other != name and given.get(parameter) is not None:
            raise InputError(f"{parameter} belongs to the policy {other!r}, not to {name!r}.")
    if name in ("budget", "abstain") and given[PARAMETERS[name]] is None:
        raise InputError(f"The policy {name!r} needs {PARAMETERS[name]}.")
    kept = _kept(targets, exclude)
    if name in ("utility", "budget") and tuned.cost is None:
        raise InputError(
            f"The policy {name!r} weighs costs, and this router was fitted without prices; fit it "
            "with prices, or use argmax, tolerance or abstain."
        )
    match name:
        case "tolerance" if tau is None:
            return _promised(tuned, kept, targets)
        case "tolerance":
            if not 0 <= tau <= 1:
                raise InputError(f"tau is {tau}; it must be from 0 to 1.")
            return Rule(name, float(tau), kept)
        case "utility":
            return Rule(name, float(tuned.lam if lam is None else lam), kept)
        case "budget":
            found = fit_budget(tuned.p[:, kept], tuned.cost[:, kept], budget)
            note = f", which is expected to spend at most {budget:g} USD a query on average"
            return Rule(name, found, kept, note)
        case "abstain":
            _check_labelled(tuned, kept, targets)
            threshold = fit_abstention(tuned.p[:, kept], tuned.correct[:, kept], accuracy)
            share = f"{100 * accuracy:g} %"
            note = f", from which on {share} of the answers to validation queries are right"
            return Rule(name, threshold, kept, note)
    return Rule(name, 0.0, kept)


def _kept(targets: Sequence[str], exclude: Sequence[str]) -> np.ndarray:
    exclude = [exclude] if isinstance(exclude, str) else exclude
    for target in exclude:
        if target not in targets:
            hint = did_you_mean(target, targets)
            raise InputError(f"Unknown target {target!r} in exclude.{hint}")
    kept = np.array([k for k, target in enumerate(targets) if target not in exclude], dtype=int)
    if len(kept) == 0:
        raise InputError("All targets are excluded, so there is none to ask.")
    return kept


def _check_labelled(tuned: Tuned, kept: np.ndarray, targets: Sequence[str]) -> None:
    """Refuse targets of which no answer to a validation query was graded, as of those added."""
    unknown = [targets[k] for k in kept if np.isnan(tuned.correct[:, k]).all()]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise InputError(
            f"The policy 'abstain' finds its threshold on validation queries, which {names} never "
            f"answered (targets added since never did). Leave out what was not asked "
            f"(exclude={unknown}), or fit a new router to labels of all targets."
        )


def _promised(tuned: Tuned, kept: np.ndarray, targets: Sequence[str]) -> Rule:
    """The tolerance that is certified, or the best single target where nothing is."""
    promise = tuned.guarantee
    bound = f"at most {100 * promise.max_loss:g} points below the best single target"
    if promise.tau is None:
        names = [targets[k] for k in kept]
        if promise.best_single in names:  # not a target added since, likely by few labels
            best, which = names.index(promise.best_single), "best single target on training queries"
        else:
            best = int(np.nan_to_num(tuned.accuracy[kept], nan=-1).argmax())
            which = "most accurate of those left"
        return Rule("single", best, kept, f"the {which}: no tolerance is certified to stay {bound}")
    note = f" (tau certified: {bound}, confidence {100 * promise.confidence:g} %)"
    certified = list(range(len(targets) - tuned.added))
    if kept.tolist() != certified:
        note = " (tau was certified for "
        note += ", ".join(targets[k] for k in certified) + " together, not for those asked here)"
    return Rule("tolerance", promise.tau, kept, note)
