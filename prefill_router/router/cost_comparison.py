"""Is it worth predicting each answer's length? Savings at equal accuracy, by what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.evaluation.bootstrap import Interval, Values, estimate, intervals
from prefill_router.evaluation.comparison import BEST, with_differences
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import cost_saving, ratio
from prefill_router.evaluation.tuning import tied_lambdas
from prefill_router.report import verdict

PREDICTED, TRUE = "predicted lengths", "true lengths"
MEDIAN, MEAN = "median lengths", "mean lengths"
"""The same for every query: as the paper expects, and what a prediction that knows nothing is."""
SAVING = "saving at equal accuracy"
ENCODER = ", encoder included"
ERROR = "error of the expected cost"
RULES = ("tolerance", "utility")
POINTS = 256  # tolerances, and lambdas, at which a curve is looked at


def compare_costs(
    p: np.ndarray,
    correct: np.ndarray,
    paid: np.ndarray,
    expected: Mapping[str, np.ndarray],
    best_single: int | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    encoder_cost: np.ndarray | None = None,
    split: str = "test",
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare what routing saves by different expectations of what answers will cost.

    Parameters
    ----------
    p : ndarray of shape (N, K)
        Predicted P(correct).
    correct : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    paid : ndarray of shape (N, K)
        What each answer cost, in USD.
    expected : mapping of str to ndarray of shape (N, K)
        Expected costs by how they were found. The first is compared with every other.
    best_single : int or ndarray of shape (N,)
        The best single target, chosen on training queries (for each row where folds differ).
    groups : ndarray of shape (N,), optional
        Queries drawn together by the bootstrap.
    targets : sequence of str
        Names of the K targets.
    encoder_cost : ndarray of shape (N,), optional
        What the encoder's prefill costs, in USD: only routing pays it. Default: unknown, and then
        no saving includes it.
    split, n_resamples, seed
        As in `prefill_router.evaluation.comparison.compare_choices`.

    Returns
    -------
    pandas.DataFrame
        Results. Of router ``"tolerance, WAY"`` and ``"utility, WAY"`` the `SAVING` against the best
        single target at the cheapest setting that is as accurate on these queries, and the first
        way's difference from each other (`versus`); the same with `ENCODER` costs. Of each way and
        target the root mean squared `ERROR`, as a share of its mean cost, and its difference.

    Notes
    -----
    The setting is found anew in every resample, on the queries it is reported on: this says what
    the curves hold. Resamples in which a curve is nowhere as accurate are left out.
    """
    kept = complete(correct, paid, groups)
    rows, right, cost = kept.rows, kept.correct, kept.cost
    seen = {way: kept.costs(values) for way, values in expected.items()}
    single = np.broadcast_to(best_single, rows.shape)[rows][:, None]
    read = np.zeros(len(right)) if encoder_cost is None else np.asarray(encoder_cost)[rows]
    chosen = {
        f"{name}, {way}": _choices(name, np.asarray(p, dtype=np.float64)[rows], values)
        for name in RULES
        for way, values in seen.items()
    } | {BEST: single}
    columns = {("right", name): np.take_along_axis(right, k, axis=1) for name, k in chosen.items()}
    columns |= {("cost", name): np.take_along_axis(cost, k, axis=1) for name, k in chosen.items()}
    columns["encoder"] = read[:, None]

    def saving(m: Values, name: str, included: bool = False) -> np.ndarray:
        enough = m["right", name] >= m["right", BEST] - policy.ROUNDING
        least = np.where(enough, m["cost", name], np.inf).min(axis=1, keepdims=True)
        least[np.isinf(least)] = np.nan
        return cost_saving(least + included * m["encoder"], m["cost", BEST])[:, 0]

    first, *others = seen
    names = [name for name in chosen if name != BEST]
    pairs = [(f"{rule}, {first}", f"{rule}, {way}") for rule in RULES for way in others]
    settings = {"split": split, "n": len(right)}
    quantities = with_differences({SAVING: saving}, names, pairs, **settings)
    if encoder_cost is not None:
        included = {SAVING + ENCODER: lambda m, a: saving(m, a, True)}
        quantities |= with_differences(included, names, **settings)
    drawn = {"groups": kept.groups, "n_resamples": n_resamples, "seed": seed}
    found = [estimate(columns, quantities, centred=True, **drawn)]
    ways = [way for way, values in seen.items() if not np.array_equal(values, cost)]
    if ways:
        errors = {way: (seen[way] - cost) ** 2 for way in ways} | {"cost": cost}
        share = {ERROR: lambda m, a: ratio(np.sqrt(m[a]), m["cost"])}
        pairs = [(ways[0], way) for way in ways[1:]]
        quantities = with_differences(share, ways, pairs, targets=targets, **settings)
        found.append(estimate(errors, quantities, **drawn))
    return pd.concat(found, ignore_index=True)


def compare_expected_costs(
    p: np.ndarray,
    correct: np.ndarray,
    paid: np.ndarray,
    expected: Mapping[str, np.ndarray],
    best_single: int | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    encoder_cost: np.ndarray | None = None,
    split: str = "test",
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[Estimate]:
    """Compare what routing saves by different expectations of what answers will cost.

    Parameters
    ----------
    p : ndarray of shape (N, K)
        Predicted P(correct).
    correct : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    paid : ndarray of shape (N, K)
        What each answer cost, in USD.
    expected : mapping of str to ndarray of shape (N, K)
        Expected costs by how they were found. The first is compared with every other.
    best_single : int or ndarray of shape (N,)
        The best single target, chosen on training queries (for each row where folds differ).
    groups : ndarray of shape (N,), optional
        Queries drawn together by the bootstrap.
    targets : sequence of str
        Names of the K targets.
    encoder_cost : ndarray of shape (N,), optional
        What the encoder's prefill costs, in USD: only routing pays it. Default: unknown, and then
        no saving includes it.
    split, n_resamples, seed
        As in `prefill_router.evaluation.choices.evaluate_choices`.

    Returns
    -------
    list of Estimate
        For the policies ``tolerance`` and ``utility`` (in `router`, before the expectation) the
        `SAVING` against the best single target, at the cheapest setting that is as accurate on
        these queries, and the difference "A - B"; the same with `ENCODER` costs. For each target
        the root mean squared `ERROR`, as a share of its mean cost, and its difference.

    Notes
    -----
    The setting is found anew in every resample, on the queries it is reported on: this says what
    the curves hold. Resamples in which a curve is nowhere as accurate are left out.
    """
    kept = complete(correct, paid, groups)
    rows, right, cost, groups = kept.rows, kept.correct, kept.cost, kept.groups
    p = np.asarray(p, dtype=np.float64)[rows]
    seen = {name: kept.costs(values) for name, values in expected.items()}
    read = np.zeros(len(p)) if encoder_cost is None else np.asarray(encoder_cost)[rows]
    curves = {
        (name, way): _choices(name, p, values)
        for name in ("tolerance", "utility")
        for way, values in seen.items()
    }
    single = np.broadcast_to(best_single, rows.shape)[rows][:, None]
    columns = [np.take_along_axis(values, single, axis=1) for values in (right, cost)]
    columns.append(read[:, None])
    for chosen in curves.values():
        columns += [np.take_along_axis(values, chosen, axis=1) for values in (right, cost)]

    def savings(means: np.ndarray) -> np.ndarray:
        accuracy, single, reading = means[:, 0], means[:, 1], means[:, 2]
        found, at = [], 3
        for chosen in curves.values():
            n = chosen.shape[1]
            reached, spent = means[:, at : at + n], means[:, at + n : at + 2 * n]
            enough = reached >= accuracy[:, None] - policy.ROUNDING
            least = np.where(enough, spent, np.inf).min(axis=1)
            least[np.isinf(least)] = np.nan
            found += [cost_saving(least, single), cost_saving(least + reading, single)]
            at += 2 * n
        return np.column_stack(found)

    ways = list(seen)
    pairs = [(place, other) for place in (0, len(ways)) for other in range(1, len(ways))]

    def with_differences(means: np.ndarray) -> np.ndarray:
        found = savings(means)
        plain = found[:, ::2]
        differences = [plain[:, place] - plain[:, place + other] for place, other in pairs]
        return np.column_stack([found, *differences])

    found = intervals(np.hstack(columns), groups, with_differences, n_resamples, seed, centred=True)
    labels = [(f"{name}, {way}", "") for name, way in curves]
    n = len(p)
    result = rows_of(SAVING, labels, found[: 2 * len(labels) : 2], split, n)
    if encoder_cost is not None:
        result += rows_of(SAVING + ENCODER, labels, found[1 : 2 * len(labels) : 2], split, n)
    names = [
        (f"{'utility' if place else 'tolerance'}, {ways[0]} - {ways[other]}", "")
        for place, other in pairs
    ]
    result += rows_of(SAVING + " difference", names, found[2 * len(labels) :], split, n)
    return result + _errors(seen, cost, groups, targets, split, n_resamples, seed)


def _choices(name: str, p: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return what a policy chooses at settings over its whole range, (N, T)."""
    if name == "tolerance":
        settings = np.quantile(policy.gaps(p), np.linspace(0, 1, POINTS))
        choose = policy.tolerance
    else:
        ties = tied_lambdas(p, cost)
        settings = (
            np.r_[0.0, np.quantile(ties, np.linspace(0, 1, POINTS - 1))] if len(ties) else [0]
        )
        choose = policy.utility
    return np.column_stack([choose(p, cost, setting) for setting in np.unique(settings)])


def _errors(
    seen: Mapping[str, np.ndarray],
    cost: np.ndarray,
    groups: np.ndarray | None,
    targets: Sequence[str],
    split: str,
    n_resamples: int,
    seed: int,
) -> list[Estimate]:
    """Root mean squared error of each expectation, as a share of the mean cost, by target."""
    ways = [way for way, values in seen.items() if not np.array_equal(values, cost)]
    if not ways:
        return []
    columns = [cost, *((seen[way] - cost) ** 2 for way in ways)]

    def shares(means: np.ndarray) -> np.ndarray:
        parts = means.reshape(len(means), len(ways) + 1, -1)
        mean, errors = parts[:, :1], np.sqrt(parts[:, 1:])
        share = ratio(errors, mean)
        return np.hstack([*share.swapaxes(0, 1), *(share[:, :1] - share[:, 1:]).swapaxes(0, 1)])

    found = intervals(np.hstack(columns), groups, shares, n_resamples, seed)
    labels = [(way, target) for way in ways for target in targets]
    pairs = [(f"{ways[0]} - {other}", target) for other in ways[1:] for target in targets]
    n = len(cost)
    return rows_of(ERROR, labels, found[: len(labels)], split, n) + rows_of(
        ERROR + " difference", pairs, found[len(labels) :], split, n
    )


def cost_verdict(
    estimates: Sequence[Estimate], policy_name: str = "tolerance", other: str = MEAN
) -> str:
    """Return the sentence that says whether predicting lengths saved anything.

    Parameters
    ----------
    estimates : sequence of Estimate
        From `compare_expected_costs`, of `PREDICTED` against `other`.
    policy_name : {"tolerance", "utility"}, default "tolerance"
    other : {MEAN, MEDIAN}
        Against the mean, what is gained comes from telling queries apart; against the median also
        from expecting the mean, which every prediction of costs does.
    """
    wanted = f"{policy_name}, {PREDICTED} - {other}"
    found = next(e for e in estimates if e.router == wanted and e.metric.startswith(SAVING))
    interval = Interval(found.estimate, found.lower, found.upper)
    return verdict(interval, "Expecting " + PREDICTED, "expecting " + other, SAVING)
