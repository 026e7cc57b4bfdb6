"""One decision: which target is asked, with what was known when it was chosen, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
class Tuned:
    """What policies need to know beforehand, from the queries that a router was fitted to.

    Attributes
    ----------
    targets : sequence of str
        Names of the K targets.
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

    targets: Sequence[str]
    p: np.ndarray
    cost: np.ndarray | None
    correct: np.ndarray
    tau: float
    lam: float
    accuracy: np.ndarray
    guarantee: Guarantee
    added: int = 0

    @property
    def certified(self) -> list[str]:
        """Targets that the guarantee covers."""
        return list(self.targets[: len(self.targets) - self.added])

    def take(self, kept: np.ndarray) -> Tuned:
        """Return what is known of some targets; the guarantee stays that of all."""
        return replace(
            self,
            targets=[self.targets[k] for k in kept],
            p=self.p[:, kept],
            cost=None if self.cost is None else self.cost[:, kept],
            correct=self.correct[:, kept],
            accuracy=self.accuracy[kept],
        )


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
        """Return the chosen columns (N,) of `p` and `cost` (N, K); `policy.NOBODY` for none."""
        p = p[:, self.kept]
        c = np.zeros_like(p) if cost is None else cost[:, self.kept]
        chosen = CHOOSE[self.name](p, c, self.parameter)
        return np.where(chosen == policy.NOBODY, policy.NOBODY, self.kept[chosen])

    def routes(self, p: np.ndarray, cost: np.ndarray | None) -> list[Route]:
        """Return where each of N queries goes."""
        places = {policy.NOBODY: None} | {k: place for place, k in enumerate(self.kept)}
        chosen = [places[k] for k in self.choose(p, cost).tolist()]
        p = p[:, self.kept].tolist()
        costs = [None] * len(p) if cost is None else cost[:, self.kept].tolist()
        return [
            Route(
                None if place is None else self.targets[place],
                dict(zip(self.targets, p_row, strict=True)),
                cost_row and dict(zip(self.targets, cost_row, strict=True)),
                f"{self._reason(place, p_row, cost_row)}{self.note}.",
            )
            for place, p_row, cost_row in zip(chosen, p, costs, strict=True)
        ]

    def _reason(self, place: int | None, p: list[float], cost: list[float] | None) -> str:
        most = max(p)
        highest = f"the highest P(correct), {most:.2f} of {self.targets[p.index(most)]}"
        match self.name:
            case "single":
                return ""  # the note says which target that is
            case "abstain":
                compared = "below" if place is None else "at least"
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
    name: str, exclude: Sequence[str] = (), *, tuned: Tuned, **parameters: float | None
) -> Rule:
    """Settle a policy before any query is looked at.

    Parameters
    ----------
    name : {"tolerance", "argmax", "utility", "budget", "abstain"}
    exclude : sequence of str
        Targets that cannot be asked now.
    tuned : Tuned
    **parameters
        The policy's own; None is as if it were not given.

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
    value = _parameter(name, parameters)
    kept = _kept(tuned.targets, exclude)
    known = tuned.take(kept)
    if name in ("utility", "budget") and tuned.cost is None:
        raise InputError(
            f"The policy {name!r} weighs costs, and this router was fitted without prices; fit it "
            "with prices, or use argmax, tolerance or abstain."
        )
    note = ""
    match name:
        case "tolerance" if value is None:
            name, value, note = _promised(known, tuned.certified)
        case "tolerance" if not 0 <= value <= 1:
            raise InputError(f"tau is {value}; it must be from 0 to 1.")
        case "utility":
            value = tuned.lam if value is None else value
        case "budget":
            note = f", which is expected to spend at most {value:g} USD a query on average"
            name, value = "utility", fit_budget(known.p, known.cost, value)
        case "abstain":
            _check_labelled(known)
            note = f", from which on {100 * value:g} % of the answers to validation queries are"
            note, value = f"{note} right", fit_abstention(known.p, known.correct, value)
    return Rule(name, float(value or 0), kept, known.targets, note)


def _parameter(name: str, given: dict[str, float | None]) -> float | None:
    """Return the parameter of a policy; refuse those of others."""
    if name not in PARAMETERS:
        raise InputError(f"Unknown policy {name!r}.{did_you_mean(name, PARAMETERS)}")
    given = {key: value for key, value in given.items() if value is not None}
    value = given.pop(PARAMETERS[name], None)
    for other, parameter in PARAMETERS.items():
        if parameter in given:
            raise InputError(f"{parameter} belongs to the policy {other!r}, not to {name!r}.")
    if given:
        known = [parameter for parameter in PARAMETERS.values() if parameter]
        unknown = next(iter(given))
        raise InputError(f"No policy has a setting {unknown!r}.{did_you_mean(unknown, known)}")
    if name in ("budget", "abstain") and value is None:
        raise InputError(f"The policy {name!r} needs {PARAMETERS[name]}.")
    return value


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


def _check_labelled(known: Tuned) -> None:
    """Refuse targets of which no answer to a validation query was graded, as of those added."""
    never = np.isnan(known.correct).all(axis=0)
    if unknown := [target for target, none in zip(known.targets, never, strict=True) if none]:
        names = ", ".join(map(repr, unknown))
        raise InputError(
            f"The policy 'abstain' finds its threshold on validation queries, which {names} never "
            f"answered (targets added since never did). Leave out what was not asked "
            f"(exclude={unknown}), or fit a new router to labels of all targets."
        )


def _promised(known: Tuned, certified: Sequence[str]) -> tuple[str, float, str]:
    """The tolerance that is certified, or the best single target where nothing is."""
    promise, names = known.guarantee, list(known.targets)
    bound = f"at most {100 * promise.max_loss:g} points below the best single target"
    if promise.tau is None:
        if promise.best_single in names:  # not a target added since, likely by few labels
            best, which = names.index(promise.best_single), "best single target on training queries"
        else:
            best = int(np.nan_to_num(known.accuracy, nan=-1).argmax())
            which = "most accurate of those left"
        return "single", best, f"the {which}: no tolerance is certified to stay {bound}"
    note = f" (tau certified: {bound}, confidence {100 * promise.confidence:g} %)"
    if names != list(certified):
        note = f" (tau was certified for {', '.join(certified)} together, not for those asked here)"
    return "tolerance", promise.tau, note
