"""Policies: from predicted P(correct) and costs to the target that is asked.

Where a policy is indifferent it takes the cheaper target, then the likelier, then the one that
comes first.
"""

from __future__ import annotations

import numpy as np

from prefill_router.errors import InputError

NOBODY = -1  # chosen where no target is asked
ROUNDING = 1e-12  # differences of probabilities that agree to this are the same difference


def argmax(p: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    """Choose the target with the highest probability.

    Parameters
    ----------
    p : (N, K) array
        Predicted P(correct).
    c : (K,) or (N, K) array, optional
        Cost of asking, in USD; it only breaks ties. Default: all alike.

    Returns
    -------
    (N,) int array
        The chosen targets.

    Raises
    ------
    InputError
        If a value is missing or the shapes disagree.
    """
    return tolerance(p, np.zeros(np.shape(p)[-1:]) if c is None else c, 0.0)


def tolerance(p: np.ndarray, c: np.ndarray, tau: float) -> np.ndarray:
    """Choose the cheapest target whose probability is within `tau` of the highest.

    Parameters
    ----------
    p : (N, K) array
        Predicted P(correct).
    c : (K,) or (N, K) array
        Cost of asking as known beforehand, in USD.
    tau : float
        The tolerance, at least 0; 0.20 is the default of the authors' toolkit [T]. A target whose
        gap to the highest probability equals `tau` up to rounding is within it.

    Returns
    -------
    (N,) int array
        The chosen targets.

    Raises
    ------
    InputError
        If a value is missing, the shapes disagree or `tau` is negative.
    """
    p, c = aligned(p, c)
    if not tau >= 0:
        raise InputError(f"tau must be at least 0, not {tau}.")
    return _cheapest(gaps(p) <= tau + ROUNDING, p, c)


def utility(p: np.ndarray, c: np.ndarray, lam: float) -> np.ndarray:
    """Choose the target with the highest utility ``p - lam * c``.

    Parameters
    ----------
    p : (N, K) array
        Predicted P(correct).
    c : (K,) or (N, K) array
        Cost of asking as known beforehand, in USD.
    lam : float
        What one USD is worth in probability of a right answer, at least 0.

    Returns
    -------
    (N,) int array
        The chosen targets.

    Raises
    ------
    InputError
        If a value is missing, the shapes disagree or `lam` is negative or infinite.
    """
    p, c = aligned(p, c)
    if not 0 <= lam < np.inf:
        raise InputError(f"lam must be at least 0 and finite, not {lam}.")
    worth = p - lam * c
    best = worth.max(axis=1, keepdims=True)
    return _cheapest(worth >= best - ROUNDING * np.maximum(1, np.abs(best)), p, c)


def abstain(p: np.ndarray, threshold: float, c: np.ndarray | None = None) -> np.ndarray:
    """Choose as `argmax` does, or no target where the highest probability is below a threshold.

    Parameters
    ----------
    p : (N, K) array
        Predicted P(correct).
    threshold : float
        See `prefill_router.evaluation.tuning.fit_abstention`.
    c : (K,) or (N, K) array, optional
        Cost of asking, in USD; it only breaks ties. Default: all alike.

    Returns
    -------
    (N,) int array
        The chosen targets; `NOBODY` for none.

    Raises
    ------
    InputError
        If a value is missing, the shapes disagree or the threshold is no number.
    """
    if np.isnan(threshold):
        raise InputError("The threshold of abstention is not a number.")
    chosen = argmax(p, c)
    return np.where(np.max(p, axis=1) >= threshold - ROUNDING, chosen, NOBODY)


def oracle(correct: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    """Choose with perfect foresight: the cheapest target that is right, else the cheapest.

    Parameters
    ----------
    correct : (N, K) array
        1 where the target answers correctly, else 0; no missing labels.
    c : (K,) or (N, K) array, optional
        Cost of asking, in USD. Default: all alike.

    Returns
    -------
    (N,) int array
        The chosen targets.

    Raises
    ------
    InputError
        If a value is missing or the shapes disagree.
    """
    return argmax(correct, c)


def gaps(p: np.ndarray) -> np.ndarray:
    """Return how far each probability is below its row's highest, (N, K)."""
    return p.max(axis=1, keepdims=True) - p


def aligned(p: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `p` and `c` as float64 (N, K), or say what is wrong with them.

    Raises
    ------
    InputError
        If `p` is not (N, K), `c` neither (K,) nor (N, K), or one of them holds NaN or infinity.
    """
    p, c = np.asarray(p, dtype=np.float64), np.asarray(c, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] == 0:
        raise InputError(f"Probabilities and labels must be (queries, targets), not {p.shape}.")
    if c.shape not in (p.shape, p.shape[1:]):
        raise InputError(
            f"Costs of shape {c.shape} do not fit values of shape {p.shape}; "
            f"give {p.shape[1:]} or {p.shape}."
        )
    for name, values, mend in (
        ("probabilities or labels", p, "keep only queries that have them for all targets"),
        ("costs", c, "give every target a price; an unknown price is not 0"),
    ):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            where = "query {}, target {}" if values.ndim == 2 else "target {}"
            at = where.format(*bad[0])
            raise InputError(f"The {name} hold no finite number for {at}; {mend}.")
    return p, np.broadcast_to(c, p.shape)


def _cheapest(allowed: np.ndarray, p: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Choose the cheapest allowed target; among equals the likelier, then the first."""
    return np.lexsort((-p, np.where(allowed, c, np.inf)), axis=-1)[:, 0]
