"""A promise about accuracy: at most d below the best single target, with confidence 1 - alpha.

Learn then test: tolerances are tried in a fixed order, from the most careful on, each by a
valid test on held-out labels that nothing was fitted to. The first that fails ends the search; the
last that passed is promised. So the chance of promising a tolerance that breaks the promise is at
most alpha, however many are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field
from scipy.special import logsumexp

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.comparison import Evaluation

TAUS = tuple(round(step / 100, 2) for step in range(101))
Share = Annotated[float, Field(ge=0, le=1)]
BETS = tuple(np.geomspace(0.02, 0.98, 9))  # as shares of the largest that cannot lose all


@dataclass(frozen=True)
class Guarantee:
    """What held-out labels allow to promise.

    Attributes
    ----------
    tau : float or None
        The largest tolerance certified; None where not even the first one is.
    max_loss : float
        d: by how much the accuracy may fall below the best single target's.
    confidence : float
        1 - alpha.
    best_single : str
        The target compared with, chosen on training queries.
    n, n_groups : int
        Held-out queries labelled for every target, and their groups; each group counts once.
    taus, p_values : tuple of float
        What was tried, in order, and with what p-value; the last one failed unless all passed.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    tau: Share | None
    max_loss: Share
    confidence: Share
    best_single: str
    n: int
    n_groups: int
    taus: tuple[Share, ...]
    p_values: Annotated[tuple[Share, ...], Field(min_length=1)]

    def __str__(self) -> str:
        """Return the promise, or that there is none, as a sentence."""
        bound = (
            f"at most {100 * self.max_loss:g} points below always asking {self.best_single}, with "
            f"confidence {100 * self.confidence:g} %"
        )
        rests = f"{self.n:,} held-out queries in {self.n_groups:,} groups"
        if self.tau is None:
            return (
                f"Nothing is certified: {rests} do not show that the router's accuracy is {bound} "
                f"(p = {self.p_values[0]:.2g}); ask {self.best_single}, give more labels, or allow "
                "a larger loss."
            )
        return (
            f"At the tolerances tried up to tau {self.tau:g} the router's accuracy is {bound}, by "
            f"{rests} (each group counting once), for queries drawn as they were."
        )


def certify(
    at: Evaluation,
    p: np.ndarray,
    *,
    max_loss: float = 0.02,
    confidence: float = 0.95,
    taus: Sequence[float] = TAUS,
) -> Guarantee:
    """Find the largest tolerance whose accuracy can be promised.

    Parameters
    ----------
    at : Evaluation
        Held-out queries; incomplete ones are left out. Costs are those known beforehand, which
        decide what a tolerance chooses; each group counts once, as the mean of its queries; the
        best single target is a number, and targets have names.
    p : ndarray of shape (N, K)
        Predicted P(correct).
    max_loss : float, default 0.02
        d, between 0 and 1.
    confidence : float, default 0.95
        1 - alpha.
    taus : sequence of float
        Tolerances in the order in which they are tried; it must not depend on these labels.
        Default: 0 to 1 in steps of a hundredth.

    Returns
    -------
    Guarantee

    Raises
    ------
    InputError
        If a level is not between 0 and 1, or no query is labelled for every target.

    References
    ----------
    Angelopoulos et al., "Learn then Test: Calibrating predictive algorithms to achieve risk
    control", 2021, for fixed-sequence testing.
    """
    check_levels(max_loss, confidence)
    rows, kept = at.complete()
    p, right, codes = np.asarray(p, dtype=np.float64)[rows], kept.correct, kept.group_codes
    sizes, places, tried, certified = np.bincount(codes), np.arange(len(right)), {}, None
    for tau in map(float, taus):
        chosen = policy.tolerance(p, kept.cost, tau)
        gain = right[places, chosen] - right[:, at.best_single]
        tried[tau] = p_value(np.bincount(codes, weights=gain) / sizes, max_loss)
        if tried[tau] > 1 - confidence:
            break
        certified = tau
    best, found = at.targets[at.best_single], (tuple(tried), tuple(tried.values()))
    return Guarantee(certified, max_loss, confidence, best, len(right), len(sizes), *found)


def check_levels(max_loss: float, confidence: float) -> None:
    """Raise InputError if a level is not between 0 and 1."""
    if not (0 < max_loss < 1 and 0 < confidence < 1):
        raise InputError(
            f"max_loss is {max_loss} and confidence {confidence}; both must be between 0 and 1."
        )


def p_value(gains: np.ndarray, max_loss: float) -> float:
    r"""Return the p-value of "the mean gain is at most ``-max_loss``", valid for any sample size.

    Parameters
    ----------
    gains : ndarray of shape (G,)
        Independent differences in [-1, 1], of a group each.
    max_loss : float
        d, between 0 and 1.

    Returns
    -------
    float
        In (0, 1].

    Notes
    -----
    A gambler bets a share :math:`\lambda` against the hypothesis on one group after the other: his
    capital :math:`\prod_g (1 + \lambda (x_g + d))` never has a mean above 1 if the hypothesis
    holds, as long as no bet can lose more than all, :math:`\lambda < 1 / (1 - d)`. Nor has the mean
    capital of several gamblers whose shares are fixed beforehand; so, by Ville's inequality, the
    inverse of the most that it ever is is a p-value. The groups are taken in an order that is drawn
    without looking at them. Differences of two routers are mostly 0; unlike bounds that presume the
    largest variance, the capital grows by the variance there is.

    References
    ----------
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B,
    2024.
    """
    bets = np.array(BETS) / (1 - max_loss)
    order = np.random.default_rng(0).permutation(len(gains))
    capital = np.cumsum(np.log1p(bets * (gains[order] + max_loss)[:, None]), axis=0)
    most = logsumexp(capital, axis=1).max()
    return float(min(1.0, np.exp(np.log(len(bets)) - most)))
