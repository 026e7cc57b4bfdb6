"""Routers compared on the same queries: what they choose and what they predict, with intervals.

Routing is measured on the queries labelled for every target, probabilities for each target on the
queries labelled for it. All routers share the resamples, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from prefill_router import metrics, policy
from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation import bootstrap, curves
from prefill_router.evaluation.bootstrap import Measure, OfRows, Pairs, Ranking, Values, differences
from prefill_router.evaluation.results import Quantity, counted, results
from prefill_router.metrics import cost_saving, gap_closed
from prefill_router.progress import track

ORACLE, BEST, SINGLE = "oracle", "best single target", "single target"
REFERENCES = (ORACLE, BEST, SINGLE)
SAVING = "cost saving"
SAVING_AGAINST_BEST = "saving against the best single target"
ENCODER_INCLUDED = ", encoder included"
ON_TRAINING, ON_TEST = "chosen on training", "chosen on test"
TESTED = P_VALUE, HOLM, DETECTABLE = "p-value", "p-value (Holm)", "detectable difference"
CURVES_DRAWN = 200  # resamples at most of whole curves
RIGHT: dict[str, Measure] = {
    "accuracy": lambda m, a: m["right", a],
    "gap closed": lambda m, a: gap_closed(m["right", a], m["right", BEST], m["right", ORACLE]),
    "regret": lambda m, a: m["right", ORACLE] - m["right", a],
}
SPENT: dict[str, Measure] = {
    "mean cost": lambda m, a: m["cost", a],
    SAVING: lambda m, a: cost_saving(m["cost", a], m["dearest"]),
    SAVING_AGAINST_BEST: lambda m, a: cost_saving(m["cost", a], m["cost", BEST]),
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The queries that routers are compared on, and what is known of them.

    Its methods return results: `pairs` of (router, versus) are those whose differences are wanted
    too, see `against`. Other settings of the same queries are made by `dataclasses.replace`.

    Attributes
    ----------
    correct : (N, K) array
        1 right, 0 wrong, NaN never asked.
    cost : (K,) or (N, K) array, optional
        What asking cost, in USD a query. Default: prices are unknown.
    groups : (N,) array, optional
        Queries drawn together by the bootstrap. Default: each by itself.
    best_single : int or (N,) int array, optional
        The best single target, chosen on training queries (for each row where folds differ).
    targets : sequence of str
        Names of the K targets. Default: their numbers, and no results of single targets.
    folds : (N,) array, optional
        Which fold's model predicted each row. AUC compares rows of the same fold alone: models of
        different folds differ in level, which is no failure to rank.
    split : str, default "test"
        What results call these queries.
    n_resamples : int, default 2000
        At most 500 of probabilities, and 200 of curves: these take long.
    seed : int, default 0
    """

    correct: np.ndarray
    cost: np.ndarray | None = None
    groups: np.ndarray | None = None
    best_single: int | np.ndarray | None = None
    targets: Sequence[str] = ()
    folds: np.ndarray | None = None
    split: str = "test"
    n_resamples: int = 2000
    seed: int = 0

    PER_QUERY: ClassVar = {"correct": 2, "cost": 2, "groups": 1, "best_single": 1, "folds": 1}
    """Attributes of which each query has its own row, if they have so many dimensions."""

    def __post_init__(self):
        correct = np.asarray(self.correct, dtype=np.float64)
        object.__setattr__(self, "correct", correct)
        if correct.ndim != 2 or (correct < 0).any() or (correct > 1).any():
            raise InputError(f"correct {correct.shape} must be (N, K), of 0, 1 and NaN.")
        if len(self.targets) not in (0, correct.shape[1]):
            raise InputError(f"{len(self.targets)} targets are named, of {correct.shape[1]}.")
        for name, ndim in self.PER_QUERY.items():
            n = len(value) if np.ndim(value := getattr(self, name)) == ndim else len(correct)
            if n != len(correct):
                raise InputError(
                    f"{name} has {n} rows, correct {len(correct)}; give one per query."
                )

    def take(self, rows: np.ndarray) -> Self:
        """Return the evaluation on some of the queries: a mask, or their numbers."""
        held = {k: np.asarray(v) for k, v in vars(self).items() if np.ndim(v)}
        ndim = self.PER_QUERY
        return replace(self, **{k: v[rows] for k, v in held.items() if v.ndim == ndim.get(k)})

    def complete(self) -> tuple[np.ndarray, Self]:
        """Return which queries are labelled for every target, and the evaluation on these n.

        Returns
        -------
        rows : (N,) bool array
        evaluation : Evaluation
            Its costs are (n, K).

        Raises
        ------
        InputError
            If there is no such query, a cost is unknown, or the shapes disagree.
        """
        rows = ~np.isnan(self.correct).any(axis=1)
        if not rows.any():
            raise InputError(
                "No query is labelled for every target, so that routing cannot be evaluated: ask "
                "all targets some of the same queries, or name fewer of them (targets=A,B...)."
            )
        cost = None if self.cost is None else self._costs(self.cost, rows)
        return rows, replace(self.take(rows), cost=cost)

    @property
    def group_codes(self) -> np.ndarray:
        """The groups numbered from 0, (N,) int."""
        return bootstrap.group_codes(self.groups, len(self.correct))

    def estimate(
        self,
        columns: Mapping[Any, bootstrap.Column],
        quantities: Mapping[Quantity | tuple[Quantity, ...], bootstrap.Function],
        most: int | None = None,
        *,
        n: Mapping[str, int] | None = None,
        centred: bool = False,
    ) -> pd.DataFrame:
        """Return `prefill_router.estimate` of anything that is known of these queries.

        Parameters
        ----------
        columns, quantities, centred
            As for that function; quantities take this evaluation's `split`.
        most : int, optional
            Resamples, at most.
        n : mapping of target to int, optional
            How many queries results rest on. Default: all.
        """
        n_resamples = min(most or self.n_resamples, self.n_resamples)
        how = {"n_resamples": n_resamples, "seed": self.seed, "centred": centred}
        found = bootstrap.estimate(columns, quantities, self.groups, **how).assign(split=self.split)
        return found if n is None else found.assign(n=found["target"].map(n).astype("Int64"))

    def choices(
        self,
        choices: Mapping[str, np.ndarray],
        pairs: Pairs = (),
        *,
        encoder_cost: np.ndarray | None = None,
        each_group_once: bool = False,
    ) -> pd.DataFrame:
        """Compare what routers choose, beside the oracle and single targets.

        Parameters
        ----------
        choices : mapping of router -> (N,) int array
            The target each router asks for each query; incomplete rows are left out.
        pairs : sequence of (router, versus)
            `versus` may also be ``"best single target"`` or ``"oracle"``.
        encoder_cost : (N,) array, optional
            What the encoder's prefill costs, in USD: routers pay it, single targets do not.
        each_group_once : bool, default False
            Average over groups, as a certificate does, and not over queries.

        Returns
        -------
        pandas.DataFrame
            For each router, ``"oracle"``, ``"best single target"`` and ``"single target"`` (with
            `target` named) accuracy, gap closed and regret; where costs are known mean cost (USD a
            query), cost saving (against the target that is dearest on average) and saving against
            the best single target; the last also with the encoder's cost, for routers. For the
            oracle the headroom.

        Raises
        ------
        InputError
            If a name is reserved or unknown, a choice is no target, no row is complete, or the best
            single target is not given.
        """
        check_names(choices, pairs, (ORACLE, BEST))
        rows, kept = self.complete()
        right, price, at = kept.correct, kept.cost, np.arange(rows.sum())
        asked = {name: np.asarray(choice)[rows] for name, choice in choices.items()}
        asked[ORACLE] = policy.oracle(right, price)
        asked[BEST] = kept._best_single()
        # not named by the target alone: a router may be called as the target is
        asked |= {(SINGLE, k): np.full(len(at), k) for k in range(len(self.targets))}
        last = right.shape[1] - 1
        for name, choice in asked.items():
            if choice.min() < 0 or choice.max() > last:
                raise InputError(f"Router {name!r} chooses a target outside 0..{last}.")
        columns = {("right", name): right[at, choice] for name, choice in asked.items()}
        measures, of_routers = RIGHT, {}
        if price is not None:
            columns |= {("cost", name): price[at, choice] for name, choice in asked.items()}
            columns["dearest"] = price[:, price.mean(axis=0).argmax()]
            measures = RIGHT | SPENT
            if encoder_cost is not None:
                columns["encoder"] = np.asarray(encoder_cost)[rows]
                of_routers[SAVING_AGAINST_BEST + ENCODER_INCLUDED] = _saving_with_encoder
        quantities = differences(measures, [*choices, ORACLE, BEST], pairs)
        quantities |= differences(of_routers, choices, pairs)
        quantities |= {
            Quantity(metric, SINGLE, target=target): lambda m, of=of, k=k: of(m, (SINGLE, k))
            for metric, of in measures.items()
            for k, target in enumerate(self.targets)
        }
        headroom = Quantity("headroom", ORACLE)
        quantities[headroom] = lambda m: m["right", ORACLE] - m["right", BEST]
        if each_group_once:
            codes = kept.group_codes
            sizes = np.bincount(codes)
            columns = {name: np.bincount(codes, values) / sizes for name, values in columns.items()}
            kept = replace(kept, groups=None)
        return kept.estimate(columns, quantities, n=dict.fromkeys(["", *self.targets], len(at)))

    def probabilities(
        self,
        p: Mapping[str, np.ndarray],
        pairs: Pairs = (),
        only: Sequence[str] = ("AUC", "Brier", "ECE"),
    ) -> pd.DataFrame:
        """Compare how well predicted probabilities rank and how well they are calibrated.

        Parameters
        ----------
        p : mapping of router -> (N, K) array
            Predicted P(correct).
        pairs : sequence of (router, versus)
        only : sequence of str, default all
            The metrics wanted, of "AUC", "Brier" and "ECE".

        Returns
        -------
        pandas.DataFrame
            AUC, Brier score and ECE (15 equal-mass bins) of each router and pair, for each target
            and, with an empty `target`, averaged over targets.

        Raises
        ------
        InputError
            If a name is reserved or unknown, shapes differ, or a prediction is missing (NaN).

        Notes
        -----
        The bins of the ECE are fixed on the given rows. Resampling adds noise to each bin, which
        only ever adds to an absolute value; its interval is shifted back by that bias.
        """
        check_names(p, pairs)
        Y = self.correct
        p = {name: metrics.checked(values, Y)[0] for name, values in p.items()}
        targets = [*(self.targets or map(str, range(Y.shape[1]))), ""]
        seen = ~np.isnan(Y)
        n = dict(zip(targets, [*seen.sum(axis=0), seen.any(axis=1).sum()], strict=True))
        together = [(list(p), pairs)]
        # 15 K columns a router: one at a time
        apart = [*(([name], []) for name in p), *(([], [pair]) for pair in pairs)]
        found = []
        for metric, column, measure, batches in (
            ("AUC", lambda q: Ranking(q, Y, self.folds), _with_macro, together),
            ("Brier", lambda q: (q - Y) ** 2, _with_macro, together),
            ("ECE", lambda q: _bin_columns(q, Y), _ece, track(apart, "calibration")),
        ):
            for names, some in batches if metric in only else ():
                columns = {name: column(p[name]) for name in dict.fromkeys(chain(names, *some))}
                quantities = differences({metric: measure}, names, some, targets)
                how = {"n": n, "centred": metric == "ECE"}
                found.append(self.estimate(columns, quantities, bootstrap.FEW, **how))
        return pd.concat(found, ignore_index=True)

    def curves(
        self,
        p: Mapping[str, np.ndarray],
        expected_cost: np.ndarray | None = None,
        pairs: Pairs = (),
        weak_strong: tuple[int, int] | None = None,
    ) -> pd.DataFrame:
        """Compare routing curves: P-, MDP- and PDP-AUCCC, AIQ, and APGR and CPT of two targets.

        Parameters
        ----------
        p : mapping of router -> (N, K) array
            Predicted P(correct); incomplete rows are left out.
        expected_cost : (K,) or (N, K) array, optional
            What the policy looks at, USD a query. Default: what asking cost.
        pairs : sequence of (router, versus)
        weak_strong : (int, int), optional
            The targets of RouteLLM's APGR and CPT(50 %), CPT(80 %).

        Returns
        -------
        pandas.DataFrame
            Where the best single target is known, also the saving at equal accuracy: that of the
            curve's cheapest point as accurate as it, against its cost and the dearest's. AIQ is
            taken over the range of costs that the routers and the Zero router share; RouterBench's
            code divides by the largest cost instead, which gives the same where that range begins
            at 0 and less elsewhere.

        Notes
        -----
        Each resample draws all curves anew. The saving at equal accuracy finds its point on the
        queries it is reported on: it says what the curve holds, not what a tolerance chosen
        beforehand saves. Resamples in which the curve is nowhere as accurate are left out of its
        interval.
        """
        check_names(p, pairs)
        rows, kept = self.complete()
        right, paid, seen = kept.correct, kept.cost, self._costs(expected_cost, rows)
        p = {name: np.asarray(values, dtype=np.float64)[rows] for name, values in p.items()}
        best = None
        if self.best_single is not None:
            at = np.arange(len(right)), kept._best_single()
            best = paid[at], right[at]

        def summaries(drawn: np.ndarray) -> list[dict[str, float]]:
            """Summarise each router's curve on some rows."""
            y, spent = right[drawn], paid[drawn]
            single = spent.mean(axis=0), y.mean(axis=0)
            taken = [q[drawn] for q in p.values()]
            points = [curves.routing_curve(q, y, spent, seen[drawn]).points for q in taken]
            shared = curves.shared_cost_range(single, *points)
            pgr = [weak_strong and curves.pgr_curve(q, y, *weak_strong) for q in taken]
            equal = best and tuple(values[drawn].mean() for values in best)
            return [
                curves.summarise(curve, single, shared, recovered, equal)
                for curve, recovered in zip(points, pgr, strict=True)
            ]

        places = {name: place for place, name in enumerate(p)}
        measures = {
            metric: lambda m, a, at=at: m["summaries"][:, places[a], at]
            for at, metric in enumerate(summaries(np.arange(len(right)))[0])
        }
        # Hulls, frontiers and the best of many points follow noise upward: hence centred intervals.
        values = OfRows(lambda drawn: [list(r.values()) for r in summaries(drawn)], len(right))
        quantities = differences(measures, p, pairs)
        return kept.estimate({"summaries": values}, quantities, CURVES_DRAWN, centred=True)

    def band(
        self, p: np.ndarray, expected_cost: np.ndarray | None = None, n_points: int = 40
    ) -> pd.DataFrame:
        """Return a routing curve at a few tolerances, with the interval of its accuracy at each.

        Parameters
        ----------
        p : (N, K) array
            Predicted P(correct) of one router.
        expected_cost
            As for `curves`.
        n_points : int, default 40
            At most so many points, spread evenly over the taus at which choices change.

        Returns
        -------
        pandas.DataFrame
            "accuracy" at points whose mean cost, in USD a query, is `x`; tau rises.
        """
        rows, kept = self.complete()
        seen, p = self._costs(expected_cost, rows), np.asarray(p, dtype=np.float64)[rows]
        curve = curves.routing_curve(p, kept.correct, kept.cost, seen)
        places = np.unique(np.linspace(0, len(curve.tau) - 1, n_points).round().astype(int))
        chosen = np.column_stack([policy.tolerance(p, seen, tau) for tau in curve.tau[places]])
        columns = {"right": np.take_along_axis(kept.correct, chosen, axis=1)}
        points = tuple(Quantity("accuracy", x=x) for x in curve.cost[places])
        return kept.estimate(columns, {points: lambda m: m["right"]}, bootstrap.FEW)

    def significance(
        self, choices: Mapping[str, np.ndarray], primary: str, n_resamples: int = 10_000
    ) -> pd.DataFrame:
        """Test one router's accuracy against every other's, paired, corrected for their number.

        Parameters
        ----------
        choices : mapping of router -> (N,) int array
            As for `choices`.
        primary : str
            The router compared with all others.
        n_resamples : int, default 10000
            Few could reject nothing after Holm's correction.

        Returns
        -------
        pandas.DataFrame
            Of the primary versus each other router, none with an interval: the two-sided "p-value"
            of `bootstrap.p_values`, "p-value (Holm)", and "detectable difference" of accuracies,
            see `detectable_difference`. The p-values are those of gap closed too: all
            routers share the headroom it divides by, so that in every resample both differences
            have one sign.

        Raises
        ------
        InputError
            If the primary is unknown or alone, or no row is complete.
        """
        others = [name for _, name in against(primary, choices)]
        if not others:
            raise InputError(f"{primary!r} has no other router to be compared with.")
        rows, kept = self.complete()
        at = np.arange(len(kept.correct))
        right = {name: kept.correct[at, np.asarray(c)[rows]] for name, c in choices.items()}
        leads = np.column_stack([right[primary] - right[name] for name in others])
        p = bootstrap.p_values(leads, kept.groups, n_resamples, self.seed)
        detectable = [bootstrap.detectable_difference(lead, kept.groups) for lead in leads.T]
        found = dict(zip(TESTED, (p, bootstrap.holm(p), detectable), strict=True))
        return results(
            counted(Quantity(metric, primary, name, split=self.split, n=len(at)), value)
            for metric, values in found.items()
            for name, value in zip(others, values, strict=True)
        )

    def choice_of_best_single(self) -> pd.DataFrame:
        """Say how much better the best single target looks when it is chosen on these queries.

        Returns
        -------
        pandas.DataFrame
            "accuracy" of ``"chosen on training"``, of ``"chosen on test"``, and their difference,
            at least 0 where all folds have one best target: by so much the baseline of a gap closed
            as the toolkit has it [T] is higher, and its headroom smaller. The choice on test is
            made anew in every resample.
        """
        _, kept = self.complete()
        at = np.arange(len(kept.correct))
        columns = {ON_TRAINING: kept.correct[at, kept._best_single()], ON_TEST: kept.correct}
        measures = {"accuracy": lambda m, a: m[a].max(axis=1) if a == ON_TEST else m[a]}
        return kept.estimate(columns, differences(measures, columns, [(ON_TEST, ON_TRAINING)]))

    def _best_single(self) -> np.ndarray:
        """Return each query's best single target, (N,)."""
        if self.best_single is None:
            raise InputError("Give best_single, the best single target on training queries.")
        return np.broadcast_to(self.best_single, len(self.correct))

    def _costs(self, cost: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """Return what complete rows cost, or are expected to, (n, K); by default the former."""
        if self.cost is None:
            raise InputError("Give cost, what asking each target cost in USD per query.")
        cost = np.asarray(self.cost if cost is None else cost, dtype=np.float64)
        return policy.aligned(self.correct[rows], cost[rows] if cost.ndim == 2 else cost)[1]


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


def check_names(names: Iterable[str], pairs: Pairs, references: Sequence[str] = ()) -> None:
    """Raise InputError if a router has a reserved name, or a pair one that is not known."""
    names = list(names)
    for name in names:
        if name in REFERENCES:
            raise InputError(f"The router name {name!r} is reserved; give it another.")
    for name in {name for pair in pairs for name in pair} - {*names, *references}:
        raise InputError(f"Unknown router {name!r} in a pair.{did_you_mean(name, names)}")


def _saving_with_encoder(m: Values, name: str) -> np.ndarray:
    return cost_saving(m["cost", name] + (0 if name == BEST else m["encoder"]), m["cost", BEST])


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
