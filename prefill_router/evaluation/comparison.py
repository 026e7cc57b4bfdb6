"""Routers compared on the same queries: what they choose and what they predict, with intervals.

Routing is measured on the queries labelled for every target, probabilities for each target on the
queries labelled for it. All routers share the resamples, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from prefill_router import metrics, policy
from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.bootstrap import Ranking, Values, estimate
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.results import Quantity
from prefill_router.progress import track

ORACLE, BEST, SINGLE = "oracle", "best single target", "single target"
REFERENCES = (ORACLE, BEST, SINGLE)
SAVING = "cost saving"
SAVING_AGAINST_BEST = "saving against the best single target"
ENCODER_INCLUDED = ", encoder included"
Pairs = Sequence[tuple[str, str]]
Measure = Callable[[Values, str], np.ndarray]


def against(primary: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of one router and each other.

    Raises
    ------
    InputError
        If none is called `primary`.
    """
    names = list(names)
    if primary not in names:
        raise InputError(f"Unknown primary router {primary!r}.{did_you_mean(primary, names)}")
    return [(primary, name) for name in names if name != primary]


def with_differences(
    measures: Mapping[str, Measure],
    names: Iterable[str],
    pairs: Pairs = (),
    *,
    targets: Sequence[str] = ("",),
    split: str = "test",
    n: int | Sequence[int] | None = None,
) -> dict[tuple[Quantity, ...], Callable[[Values], np.ndarray]]:
    """Return the quantities for `estimate`: measures of routers, and their differences.

    Parameters
    ----------
    measures : mapping of metric to callable
        Maps the columns' values and a router's name to its metric, (B,), or (B, S) for each of S
        `targets`.
    names : iterable of str
        Routers.
    pairs : sequence of (router, versus)
        Whose metrics are subtracted.
    targets : sequence of str, default of one that is empty
    split : str, default "test"
    n : int or sequence of int, optional
        How many queries there are, or are for each of `targets`.
    """
    counts = [n] * len(targets) if n is None or isinstance(n, int) else n

    def named(metric: str, router: str, versus: str = "") -> tuple[Quantity, ...]:
        return tuple(
            Quantity(metric, router, versus, target, split=split, n=count)
            for target, count in zip(targets, counts, strict=True)
        )

    found = {}
    for metric, measure in measures.items():
        for name in names:
            found[named(metric, name)] = lambda m, of=measure, a=name: of(m, a)
        for a, b in pairs:
            found[named(metric, a, b)] = lambda m, of=measure, a=a, b=b: of(m, a) - of(m, b)
    return found


def compare_choices(
    choices: Mapping[str, np.ndarray],
    correct: np.ndarray,
    cost: np.ndarray | None,
    best_single: int | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str] = (),
    pairs: Pairs = (),
    encoder_cost: np.ndarray | None = None,
    each_group_once: bool = False,
    split: str = "test",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare what routers choose, beside the oracle and single targets.

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
    targets : sequence of str, optional
        The names of the K targets, to have each of them alone as ``"single target"``.
    pairs : sequence of (router, versus)
        Whose differences are wanted; `versus` may be ``"best single target"`` or ``"oracle"``.
        See `against`.
    encoder_cost : (N,) array, optional
        What the encoder's prefill costs, in USD: routers pay it, single targets do not.
    each_group_once : bool, default False
        Average over groups, as a certificate does, and not over queries.
    split : str, default "test"
    n_resamples : int, default 2000
    seed : int, default 0

    Returns
    -------
    pandas.DataFrame
        Results: for each router, ``"oracle"``, ``"best single target"`` and ``"single target"``
        (with `target` named) accuracy, gap closed, regret, mean cost (USD a query), cost saving
        (against the target that is dearest on average) and saving against the best single target;
        the last also with the encoder's cost, for routers. For the oracle the headroom.

    Raises
    ------
    InputError
        If a name is reserved or unknown, a choice is no target, or no row is complete.
    """
    check_names(choices, pairs, (ORACLE, BEST))
    kept = complete(correct, cost, groups)
    rows, right, price, groups = kept.rows, kept.correct, kept.cost, kept.groups
    asked = {name: np.asarray(choice)[rows] for name, choice in choices.items()}
    asked[ORACLE] = policy.oracle(right, price)
    asked[BEST] = np.broadcast_to(best_single, rows.shape)[rows]
    # a single target's column is named by its number: a router may be called as the target is
    asked |= {k: np.full(len(right), k) for k in range(len(targets))}
    for name, choice in asked.items():
        if choice.min() < 0 or choice.max() >= right.shape[1]:
            raise InputError(f"Router {name!r} chooses a target outside 0..{right.shape[1] - 1}.")

    at = np.arange(len(right))
    columns = {("right", name): right[at, choice] for name, choice in asked.items()}
    measures = {
        "accuracy": lambda m, a: m["right", a],
        "gap closed": lambda m, a: metrics.gap_closed(
            m["right", a], m["right", BEST], m["right", ORACLE]
        ),
        "regret": lambda m, a: m["right", ORACLE] - m["right", a],
    }
    of_routers = {}
    if price is not None:
        columns |= {("cost", name): price[at, choice] for name, choice in asked.items()}
        columns["dearest"] = price[:, price.mean(axis=0).argmax()]
        measures |= {
            "mean cost": lambda m, a: m["cost", a],
            SAVING: lambda m, a: metrics.cost_saving(m["cost", a], m["dearest"]),
            SAVING_AGAINST_BEST: lambda m, a: metrics.cost_saving(m["cost", a], m["cost", BEST]),
        }
        if encoder_cost is not None:
            columns["encoder"] = np.asarray(encoder_cost)[rows]
            of_routers[SAVING_AGAINST_BEST + ENCODER_INCLUDED] = lambda m, a: metrics.cost_saving(
                m["cost", a] + (0 if a == BEST else m["encoder"]), m["cost", BEST]
            )
    n = len(right)
    quantities = with_differences(
        measures, [*choices, ORACLE, BEST], pairs, split=split, n=n
    ) | with_differences(of_routers, choices, pairs, split=split, n=n)
    quantities |= {
        Quantity(metric, SINGLE, target=target, split=split, n=n): lambda m, of=of, k=k: of(m, k)
        for metric, of in measures.items()
        for k, target in enumerate(targets)
    }
    quantities[Quantity("headroom", ORACLE, split=split, n=n)] = lambda m: (
        m["right", ORACLE] - m["right", BEST]
    )
    if each_group_once:
        columns, groups = _each_group_once(columns, kept.codes), None
    return estimate(columns, quantities, groups, n_resamples=n_resamples, seed=seed)


def compare_best_single(
    correct: np.ndarray,
    best_single: int | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    split: str = "test",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Say how much better the best single target looks when it is chosen on the test queries.

    Parameters
    ----------
    correct, best_single, groups, split, n_resamples, seed
        As for `compare_choices`.

    Returns
    -------
    pandas.DataFrame
        Results: "accuracy" of ``"chosen on training"``, of ``"chosen on test"``, and their
        difference, at least 0: by so much the baseline of a gap closed as the toolkit has it [T]
        is higher, and its headroom smaller. The choice on test is made anew in every resample.
    """
    kept = complete(correct, groups=groups)
    single = np.broadcast_to(best_single, kept.rows.shape)[kept.rows]
    columns = {
        "chosen on training": kept.correct[np.arange(len(single)), single],
        "chosen on test": kept.correct,
    }
    measures = {"accuracy": lambda m, a: m[a] if m[a].ndim == 1 else m[a].max(axis=1)}
    pairs = [("chosen on test", "chosen on training")]
    quantities = with_differences(measures, columns, pairs, split=split)
    return estimate(columns, quantities, kept.groups, n_resamples=n_resamples, seed=seed)


def compare_probabilities(
    p: Mapping[str, np.ndarray],
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    folds: np.ndarray | None = None,
    pairs: Pairs = (),
    only: Sequence[str] = ("AUC", "Brier", "ECE"),
    split: str = "test",
    n_resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare how well predicted probabilities rank and how well they are calibrated.

    Parameters
    ----------
    p : mapping of router -> (N, K) array
        Predicted P(correct).
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked.
    folds : (N,) array, optional
        Which fold's model predicted each row. AUC compares rows of the same fold alone: models of
        different folds differ in level, which is no failure to rank.
    only : sequence of str, default all
        The metrics wanted, of "AUC", "Brier" and "ECE".
    groups, targets, pairs, split, n_resamples, seed
        As for `compare_choices`.

    Returns
    -------
    pandas.DataFrame
        Results: AUC, Brier score and ECE (15 equal-mass bins) of each router and pair, for each
        target and, with an empty `target`, averaged over targets.

    Raises
    ------
    InputError
        If a name is reserved or unknown, shapes differ, or a prediction is missing (NaN).

    Notes
    -----
    The bins of the ECE are fixed on the given rows. Resampling adds noise to each bin, which only
    ever adds to an absolute value; its interval is shifted back by that bias.
    """
    check_names(p, pairs)
    correct = np.asarray(correct, dtype=np.float64)
    p = {name: metrics.checked(values, correct)[0] for name, values in p.items()}
    seen = ~np.isnan(correct)
    counts = [*seen.sum(axis=0).tolist(), int(seen.any(axis=1).sum())]
    settings = {"targets": [*targets, ""], "split": split, "n": counts}
    drawn = {"n_resamples": n_resamples, "seed": seed}
    found = []
    if "AUC" in only:
        columns = {name: Ranking(values, correct, folds) for name, values in p.items()}
        quantities = with_differences({"AUC": _with_macro}, p, pairs, **settings)
        found.append(estimate(columns, quantities, groups, **drawn))
    if "Brier" in only:
        columns = {name: (values - correct) ** 2 for name, values in p.items()}
        quantities = with_differences({"Brier": _with_macro}, p, pairs, **settings)
        found.append(estimate(columns, quantities, groups, **drawn))
    if "ECE" in only:  # 15 K columns a router: one at a time
        for names in track([*[(name,) for name in p], *pairs], "calibration"):
            columns = {name: _bin_columns(p[name], correct) for name in names}
            alone, both = (names, ()) if len(names) == 1 else ((), [names])
            quantities = with_differences({"ECE": _ece}, alone, both, **settings)
            found.append(estimate(columns, quantities, groups, **drawn, centred=True))
    return pd.concat(found, ignore_index=True)


def check_names(names: Iterable[str], pairs: Pairs, references: Sequence[str] = ()) -> None:
    """Raise InputError if a router has a reserved name, or a pair one that is not known."""
    names = list(names)
    for name in names:
        if name in REFERENCES:
            raise InputError(f"The router name {name!r} is reserved; give it another.")
    for name in {name for pair in pairs for name in pair} - {*names, *references}:
        raise InputError(f"Unknown router {name!r} in a pair.{did_you_mean(name, names)}")


def _each_group_once(columns: Mapping, codes: np.ndarray) -> dict:
    sizes = np.bincount(codes)
    return {name: np.bincount(codes, values) / sizes for name, values in columns.items()}


def _with_macro(m: Values, name: str) -> np.ndarray:
    """Append the average over targets to a router's metrics by target, (B, K)."""
    return np.column_stack([m[name], metrics.macro(m[name])])


def _bin_columns(p: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return p - correct spread over one column a target and bin, (N, K, N_BINS)."""
    columns = np.zeros((*p.shape, metrics.N_BINS))
    for k in range(p.shape[1]):
        seen = np.flatnonzero(~np.isnan(correct[:, k]))
        columns[np.isnan(correct[:, k]), k] = np.nan
        columns[seen, k, metrics.equal_mass_bins(p[seen, k])] = (p - correct)[seen, k]
    return columns


def _ece(m: Values, name: str) -> np.ndarray:
    by_target = np.abs(m[name]).sum(axis=-1)
    return np.column_stack([by_target, metrics.macro(by_target)])
