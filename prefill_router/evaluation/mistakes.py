"""What routers get wrong, and who wins where two of them differ; with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefill_router import metrics
from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import intervals
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.metrics import _checked
from prefill_router.policy import ROUNDING, aligned


def evaluate_mistakes(
    p: Mapping[str, np.ndarray],
    choices: Mapping[str, np.ndarray],
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    tau: float = 0.1,
    split: str = "test",
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Evaluate regret and near misses of routers.

    Parameters
    ----------
    p : mapping of router -> (N, K) array
        Predicted P(correct).
    choices : mapping of router -> (N,) int array
        The target each of the same routers asks for each query.
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    groups : (N,) array, optional
        Queries drawn together by the bootstrap.
    tau : float, default 0.1
        How close in probability a near miss is, for `near_misses`.
    split, n_resamples, seed
        As in `choices.evaluate_choices`.

    Returns
    -------
    list of Estimate
        For each router "regret" (mean), "near misses" (share of queries) and "near misses among
        errors" (NaN without any error).

    Raises
    ------
    InputError
        If `p` and `choices` name different routers, or no row is complete.
    """
    if list(p) != list(choices):
        raise InputError(f"p is of {list(p)} and choices are of {list(choices)}; name the same.")
    kept = complete(correct, groups=groups)
    rows, correct = kept.rows, kept.correct
    columns = []
    for name, choice in choices.items():
        chosen = np.asarray(choice)[rows]
        wrong = correct[np.arange(len(correct)), chosen] == 0
        near = near_misses(np.asarray(p[name])[rows], chosen, correct, tau)
        columns += [regret(chosen, correct), near, wrong]

    def with_share(means: np.ndarray) -> np.ndarray:
        lost, near, wrong = np.moveaxis(means.reshape(len(means), -1, 3), 2, 0)
        share = metrics.ratio(near, wrong)
        return np.hstack([lost, near, share])

    found = intervals(np.column_stack(columns), kept.groups, with_share, n_resamples, seed)
    names = ["regret", "near misses", "near misses among errors"]
    labels = [(router, "") for router in choices]
    return [
        row
        for i, name in enumerate(names)
        for row in rows_of(
            name, labels, found[i * len(labels) : (i + 1) * len(labels)], split, len(correct)
        )
    ]


def evaluate_win_rates(
    choices: Mapping[str, np.ndarray],
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    split: str = "test",
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Evaluate how often one router is right where it and another do not do equally well.

    Parameters
    ----------
    choices : mapping of router -> (N,) int array
        The target each router asks for each query; of a single target, its own place throughout.
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    groups, split, n_resamples, seed
        As in `choices.evaluate_choices`.

    Returns
    -------
    list of Estimate
        For each pair, with router ``"A over B"``: "win rate", A's wins / (wins + losses), and
        "decided", the share of queries on which exactly one of them is right. Queries that both
        answer correctly, or both wrongly, count for neither, as in McNemar's test; .5 is an even
        match, NaN that they never differ.
    """
    kept = complete(correct, groups=groups)
    rows, correct = kept.rows, kept.correct
    at = np.column_stack([np.asarray(choice)[rows] for choice in choices.values()])
    right = np.take_along_axis(correct, at, axis=1)
    a, b = np.triu_indices(len(choices), k=1)
    wins, losses = right[:, a] > right[:, b], right[:, a] < right[:, b]

    def rates(means: np.ndarray) -> np.ndarray:
        won, lost = np.split(means, 2, axis=1)
        decided = won + lost
        return np.hstack([metrics.ratio(won, decided), decided])

    found = intervals(np.hstack([wins, losses]), kept.groups, rates, n_resamples, seed)
    names = list(choices)
    labels = [(f"{names[i]} over {names[j]}", "") for i, j in zip(a, b, strict=True)]
    return rows_of("win rate", labels, found[: len(a)], split, len(correct)) + rows_of(
        "decided", labels, found[len(a) :], split, len(correct)
    )


def regret(choice: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return by how many right answers each choice falls short of the best one.

    Parameters
    ----------
    choice : (N,) int array
        The target asked.
    correct : (N, K) array
        1 right, 0 wrong; no missing labels.

    Returns
    -------
    (N,) array
        1 where the choice is wrong while another target is right, else 0. Its mean is the regret
        of a router, as of bandits: the expected reward of the best action less that of the action
        taken. It is A_oracle - A_router, which is headroom * (1 - gap closed).

    Raises
    ------
    InputError
        If a label is missing.

    References
    ----------
    Lattimore and Szepesvari, "Bandit Algorithms", 2020.
    """
    correct = aligned(correct, correct)[0]
    return correct.max(axis=1) - correct[np.arange(len(correct)), choice]


def near_misses(p: np.ndarray, choice: np.ndarray, correct: np.ndarray, tau: float) -> np.ndarray:
    """Return which choices were wrong while a target of nearly the same probability was right.

    Parameters
    ----------
    p, correct : (N, K) arrays
        Predicted P(correct), and 1 right or 0 wrong; no missing labels.
    choice : (N,) int array
        The target asked.
    tau : float
        How far from the chosen target's probability another's may be, above or below, up to
        rounding.

    Returns
    -------
    (N,) bool array
        Errors that a slightly different p would have avoided.

    Raises
    ------
    InputError
        If a value is missing or the shapes disagree.
    """
    p, correct = _checked(p, correct)
    aligned(correct, correct)
    rows = np.arange(len(p))
    close = np.abs(p - p[rows, choice][:, None]) <= tau + ROUNDING
    return (correct[rows, choice] == 0) & (close & (correct == 1)).any(axis=1)
