"""What routers choose, beside the oracle and every single target: accuracy, gap closed, costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prefill_router import policy
from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation import metrics
from prefill_router.evaluation.bootstrap import intervals
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of

ORACLE, BEST, SINGLE = "oracle", "best single target", "single target"


def evaluate_choices(
    choices: Mapping[str, np.ndarray],
    correct: np.ndarray,
    cost: np.ndarray | None,
    best_single: int | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    primary: str | None = None,
    split: str = "test",
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Evaluate what routers choose, beside the oracle and every single target.

    Parameters
    ----------
    choices : mapping of router -> (N,) int array
        The target each router asks for each query.
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    cost : (K,) or (N, K) array, or None
        What asking cost, in USD a query. None where prices are unknown: no metric of cost then.
    best_single : int or (N,) int array
        The best single target, chosen on training queries (for each row where folds differ).
    groups : (N,) int array, optional
        Queries drawn together by the bootstrap. Default: each by itself.
    targets : sequence of str
        The names of the K targets.
    primary : str, optional
        The router whose gap closed is compared with every other's.
    split : str, default "test"
    n_resamples : int, default 2000
    seed : int, default 0

    Returns
    -------
    list of Estimate
        For each router, and for ``"oracle"``, ``"best single target"`` and ``"single target"``
        (with `target` named): accuracy, gap closed, mean cost (USD a query) and cost saving
        (against the target that is dearest on average). For the oracle also the headroom. With
        `primary`, gap closed difference and cost saving difference of router ``"A - B"``.

    Raises
    ------
    InputError
        If a name is reserved or unknown, a choice is no target, or no row is complete.
    """
    check_names(choices, primary)
    kept = complete(correct, cost, groups)
    rows, correct, price = kept.rows, kept.correct, kept.cost
    single = np.broadcast_to(best_single, rows.shape)[rows]
    named = {(name, ""): np.asarray(choice)[rows] for name, choice in choices.items()}
    named[ORACLE, ""] = policy.oracle(correct, price)
    named[BEST, ""] = single
    named |= {(SINGLE, target): np.full(len(correct), k) for k, target in enumerate(targets)}
    for (name, _), choice in named.items():
        if choice.min() < 0 or choice.max() >= correct.shape[1]:
            raise InputError(f"Router {name!r} chooses a target outside 0..{correct.shape[1] - 1}.")

    keys = list(named)
    at = np.array(list(named.values())).T
    oracle, best = keys.index((ORACLE, "")), keys.index((BEST, ""))
    values = np.take_along_axis(correct, at, axis=1)
    minus, pairs = differences_of(keys, primary)

    def gap_closed(means: np.ndarray) -> np.ndarray:
        return metrics.gap_closed(means[:, :n], means[:, [best]], means[:, [oracle]])

    n = len(keys)
    parts = [
        ("accuracy", keys, lambda means: means[:, :n]),
        ("gap closed", keys, gap_closed),
        ("headroom", keys[oracle : oracle + 1], lambda m: m[:, [oracle]] - m[:, [best]]),
        ("gap closed difference", pairs, lambda means: minus(gap_closed(means))),
    ]
    if price is not None:
        dearest = price[:, [price.mean(axis=0).argmax()]]
        values = np.hstack([values, np.take_along_axis(price, at, axis=1), dearest])

        def saving(means: np.ndarray) -> np.ndarray:
            return metrics.cost_saving(means[:, n:-1], means[:, -1:])

        parts += [
            ("mean cost", keys, lambda means: means[:, n:-1]),
            ("cost saving", keys, saving),
            ("cost saving difference", pairs, lambda means: minus(saving(means))),
        ]
    labels = [(metric, label) for metric, labels, _ in parts for label in labels]
    found = intervals(
        values,
        kept.groups,
        lambda means: np.hstack([part(means) for *_, part in parts]),
        n_resamples,
        seed,
    )
    return [
        row
        for (metric, label), interval in zip(labels, found, strict=True)
        for row in rows_of(metric, [label], [interval], split, len(correct))
    ]


def evaluate_best_single(
    correct: np.ndarray,
    best_single: int | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    split: str = "test",
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Say how much better the best single target looks when it is chosen on the test queries.

    Parameters
    ----------
    correct, best_single, groups, split, n_resamples, seed
        As in `evaluate_choices`.

    Returns
    -------
    list of Estimate
        "accuracy" of ``"chosen on training"`` and of ``"chosen on test"``, and "accuracy
        difference" of ``"chosen on test - chosen on training"``, at least 0: by so much the
        baseline of a gap closed as the toolkit has it [T] is higher, and its headroom smaller. The
        choice on test is made anew in every resample.
    """
    kept = complete(correct, groups=groups)
    rows, correct = kept.rows, kept.correct
    single = np.broadcast_to(best_single, rows.shape)[rows]
    chosen = np.take_along_axis(correct, single[:, None], axis=1)

    def both(means: np.ndarray) -> np.ndarray:
        training, test = means[:, -1], means[:, :-1].max(axis=1)
        return np.column_stack([training, test, test - training])

    found = intervals(np.hstack([correct, chosen]), kept.groups, both, n_resamples, seed)
    training, test = ("chosen on training", ""), ("chosen on test", "")
    difference = ("chosen on test - chosen on training", "")
    accuracies = rows_of("accuracy", [training, test], found[:2], split, len(correct))
    return accuracies + rows_of("accuracy difference", [difference], found[2:], split, len(correct))


def check_names(routers: Mapping[str, np.ndarray], primary: str | None) -> None:
    """Raise InputError if a router has a reserved name, or none is called `primary`."""
    for name in routers:
        if name in (ORACLE, BEST, SINGLE):
            raise InputError(f"The router name {name!r} is reserved; give it another.")
    if primary is not None and primary not in routers:
        raise InputError(f"Unknown primary router {primary!r}.{did_you_mean(primary, routers)}")


def differences_of(keys: list, primary: str | None) -> tuple[Callable, list[tuple[str, str]]]:
    """Return a function from columns to `primary` minus each other router, and the pairs' names."""
    routers = [i for i, (name, _) in enumerate(keys) if name not in (ORACLE, BEST, SINGLE)]
    others = [i for i in routers if primary is not None and keys[i][0] != primary]
    first = [key[0] for key in keys].index(primary) if others else 0
    pairs = [(f"{primary} - {keys[i][0]}", "") for i in others]
    return lambda columns: columns[:, [first]] - columns[:, others], pairs
