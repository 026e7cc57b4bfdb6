"""Does the guarantee hold, and how many labels does it take? Simulated worlds, and real pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import beta

from prefill_router import policy
from prefill_router.evaluation.complete import complete
from prefill_router.progress import track
from prefill_router.router.guarantee import TAUS, certify

N_QUERIES = 5000
"""Queries of a simulated population."""


@dataclass(frozen=True)
class World:
    """A population of M queries whose probabilities are known.

    Attributes
    ----------
    truth : ndarray of shape (M, K)
        P(correct) of each target, as it is.
    p : ndarray of shape (M, K)
        As a router believes it to be.
    cost : ndarray of shape (K,)
        USD a query.
    """

    truth: np.ndarray
    p: np.ndarray
    cost: np.ndarray

    @property
    def best_single(self) -> int:
        """The most accurate target."""
        return int(self.truth.mean(axis=0).argmax())

    def losses(self, taus: Sequence[float]) -> np.ndarray:
        """Return by how much each tolerance is less accurate than the best single target, (T,)."""
        rows, best = np.arange(len(self.p)), self.truth[:, self.best_single].mean()
        choices = (policy.tolerance(self.p, self.cost, tau) for tau in taus)
        return np.array([best - self.truth[rows, chosen].mean() for chosen in choices])


def make_world(noise: float = 0.5, seed: int = 0) -> World:
    """Return `N_QUERIES` queries of varying difficulty, and a router that half knows them.

    Parameters
    ----------
    noise : float, default 0.5
        Standard deviation of the router's errors, in logits.
    seed : int, default 0

    Returns
    -------
    World
        Of a cheap, a middling and a dear target; the dearer, the more accurate.
    """
    rng = np.random.default_rng(seed)
    easy = rng.normal(size=(N_QUERIES, 1))
    logits = np.array([-0.4, 0.1, 0.5]) + easy + rng.normal(size=(N_QUERIES, 3))
    believed = logits + noise * rng.normal(size=logits.shape)
    return World(*(1 / (1 + np.exp(-z)) for z in (logits, believed)), np.array([1.0, 3.0, 9.0]))


@dataclass(frozen=True)
class Simulation:
    """How often a guarantee was given, and how often it was wrong.

    Attributes
    ----------
    repetitions, given, wrong : int
    """

    repetitions: int
    given: int
    wrong: int

    @property
    def rate(self) -> float:
        """Share of the repetitions in which the guarantee was wrong."""
        return self.wrong / self.repetitions

    @property
    def lower(self) -> float:
        """Least error rate that explains so many errors: one-sided 99 % (Clopper and Pearson)."""
        if not self.wrong:
            return 0.0
        return float(beta.ppf(0.01, self.wrong, self.repetitions - self.wrong + 1))


def simulate(
    world: World,
    n_queries: int,
    *,
    max_loss: float,
    confidence: float,
    taus: Sequence[float] = TAUS,
    repetitions: int = 500,
    seed: int = 0,
) -> Simulation:
    """Draw held-out labels again and again, and compare each guarantee with the truth.

    Parameters
    ----------
    world : World
    n_queries : int
        Held-out queries of a repetition, drawn from the population with their answers.
    max_loss, confidence, taus
        As for `prefill_router.router.guarantee.certify`.
    repetitions : int, default 500
    seed : int, default 0

    Returns
    -------
    Simulation
        A guarantee is wrong if any tolerance up to the certified one loses more than `max_loss`.
    """
    losses, rng = world.losses(taus), np.random.default_rng(seed)
    names = [str(k) for k in range(world.p.shape[1])]
    given = wrong = 0
    for _ in track(range(repetitions), "Simulating guarantees"):
        rows = rng.integers(len(world.p), size=n_queries)
        correct = (rng.random((n_queries, len(names))) < world.truth[rows]).astype(float)
        promise = certify(
            world.p[rows],
            correct,
            world.cost,
            world.best_single,
            targets=names,
            max_loss=max_loss,
            confidence=confidence,
            taus=taus,
        )
        if promise.tau is not None:
            given += 1
            wrong += bool((losses[np.asarray(taus) <= promise.tau] > max_loss).any())
    return Simulation(repetitions, given, wrong)


def labels_needed(
    p: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    best_single: int,
    groups: np.ndarray | None = None,
    *,
    targets: Sequence[str],
    max_losses: Sequence[float] = (0.01, 0.02, 0.05),
    confidence: float = 0.95,
    shares: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
    repetitions: int = 20,
    seed: int = 0,
    taus: Sequence[float] = TAUS,
) -> pd.DataFrame:
    """Say how many held-out labels a guarantee takes on a pool, by drawing fewer of them.

    Parameters
    ----------
    p, correct, cost, best_single, groups, targets, confidence, taus
        As for `prefill_router.router.guarantee.certify`.
    max_losses : sequence of float
    shares : sequence of float
        Shares of the groups that are drawn.
    repetitions : int, default 20
        Draws of each share but the whole.
    seed : int, default 0

    Returns
    -------
    pandas.DataFrame
        A row for each loss and share, every loss on the same draws: ``max_loss``, ``groups``,
        ``queries`` (mean over draws), ``certified`` (share of the draws in which a tolerance was),
        ``tau`` (its median over those), ``accuracy`` and ``cost`` (of that tau, on all the queries;
        NaN where there is none).
    """
    kept = complete(correct, cost, groups)
    p, right = np.asarray(p, dtype=np.float64)[kept.rows], kept.correct
    price, codes = kept.cost, kept.codes
    n_groups, rng = codes.max() + 1, np.random.default_rng(seed)
    sizes = [max(1, round(share * n_groups)) for share in shares]
    draws = {
        size: [
            np.isin(codes, rng.permutation(n_groups)[:size])
            for _ in range(repetitions if size < n_groups else 1)
        ]
        for size in sizes
    }
    places, table = np.arange(len(p)), []
    for max_loss in max_losses:
        for size in sizes:
            certified, queries = [], []
            for drawn in draws[size]:
                promise = certify(
                    p[drawn],
                    right[drawn],
                    price[drawn],
                    best_single,
                    codes[drawn],
                    targets=targets,
                    max_loss=max_loss,
                    confidence=confidence,
                    taus=taus,
                )
                certified.append(np.nan if promise.tau is None else promise.tau)
                queries.append(promise.n)
            given = ~np.isnan(certified)
            row = {"max_loss": max_loss, "groups": size, "queries": round(np.mean(queries))}
            row |= {"certified": given.mean(), "tau": np.nan, "accuracy": np.nan, "cost": np.nan}
            if given.any():
                tau = float(np.median(np.array(certified)[given]))
                chosen = policy.tolerance(p, price, tau)
                row |= {"tau": tau, "accuracy": right[places, chosen].mean()}
                row |= {"cost": price[places, chosen].mean()}
            table.append(row)
    return pd.DataFrame(table)
