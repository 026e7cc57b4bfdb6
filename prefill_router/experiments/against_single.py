"""What routing is worth against always asking the best single target, in accuracy and in money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefill_router.evaluation.bootstrap import intervals
from prefill_router.evaluation.choices import BEST
from prefill_router.evaluation.complete import complete
from prefill_router.evaluation.estimates import Estimate, rows_of
from prefill_router.evaluation.metrics import cost_saving
from prefill_router.router.cost_comparison import ENCODER

LEAD = "accuracy difference"
SAVED = "saving against the best single target"


def compare_with_single(
    choices: Mapping[str, np.ndarray],
    correct: np.ndarray,
    cost: np.ndarray | None,
    best_single: np.ndarray,
    groups: np.ndarray,
    *,
    encoder_cost: np.ndarray | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    each_group_once: bool = False,
    split: str = "test",
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Compare choices with the best single target, and with one another.

    Parameters
    ----------
    choices : mapping of router -> (n,) int array
    correct : (n, K) array
        1 right, 0 wrong, NaN never asked; incomplete rows are left out.
    cost : (n, K) array, or None
        What asking cost, in USD. None where prices are unknown: nothing is said of costs then.
    best_single : (n,) int array
        The best single target of each row, chosen on training queries.
    groups : (n,) array
        Queries drawn together by the bootstrap.
    encoder_cost : (n,) array, optional
        What the encoder's prefill costs, in USD, which only routing pays. Default: unknown.
    pairs : sequence of (str, str)
        Of the choices: those whose savings and accuracies are compared.
    each_group_once : bool, default False
        Average over groups, as a certificate does, and not over queries.
    split, n_resamples, seed
        As in `prefill_router.evaluation.choices.evaluate_choices`.

    Returns
    -------
    list of Estimate
        "accuracy" of every choice, and its difference from the best single target's (router "A -
        best single target"); `SAVED`, and with `encoder_cost` the same with that included; and of
        every pair the differences of accuracy and saving.
    """
    kept = complete(correct, cost, groups)
    rows, right, price = kept.rows, kept.correct, kept.cost
    names, at = list(choices), np.array([*choices.values(), best_single]).T[rows]
    m = len(names)
    columns = [np.take_along_axis(right, at, axis=1)]
    places = [(names.index(a), names.index(b)) for a, b in pairs]
    one, other = np.array(places, dtype=int).reshape(-1, 2).T
    each = [(name, "") for name in names]
    against = [(f"{name} - {BEST}", "") for name in names]
    between = [(f"{a} - {b}", "") for a, b in pairs]
    parts = [
        ("accuracy", each, lambda means: means[:, :m]),
        (LEAD, against, lambda means: means[:, :m] - means[:, [m]]),
        (LEAD, between, lambda means: means[:, one] - means[:, other]),
    ]
    if price is not None:
        read = np.zeros(len(right)) if encoder_cost is None else np.asarray(encoder_cost)[rows]
        columns += [np.take_along_axis(price, at, axis=1), read[:, None]]

        def saving(means: np.ndarray, included: bool = False) -> np.ndarray:
            spent = means[:, m + 1 : 2 * m + 1] + included * means[:, -1:]
            return cost_saving(spent, means[:, [2 * m + 1]])

        parts.append((SAVED, each, saving))
        if encoder_cost is not None:
            parts.append((SAVED + ENCODER, each, lambda means: saving(means, True)))
        parts.append(
            (SAVED + " difference", between, lambda x: saving(x)[:, one] - saving(x)[:, other])
        )
    values, codes = np.hstack(columns), kept.codes
    if each_group_once:
        sums = np.zeros((codes.max() + 1, values.shape[1]))
        np.add.at(sums, codes, values)
        values, codes = sums / np.bincount(codes)[:, None], np.arange(len(sums))
    found = intervals(
        values,
        codes,
        lambda means: np.hstack([part(means) for *_, part in parts]),
        n_resamples,
        seed,
    )
    labels = [(metric, label) for metric, labels, _ in parts for label in labels]
    return [
        rows_of(metric, [label], [interval], split, len(right))[0]
        for (metric, label), interval in zip(labels, found, strict=True)
    ]
