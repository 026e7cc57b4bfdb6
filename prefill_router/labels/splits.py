"""Grouped, stratified, seeded splits: no group of queries is on two sides of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefill_router.errors import InputError

if TYPE_CHECKING:
    from prefill_router.labels import Labels

PARTS = ("train", "validation", "test")
VALIDATION_SHARE = 0.15
"""Of all queries; one split tests a quarter of them."""


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the three parts: disjoint, each sorted.

    Parameters
    ----------
    train, validation, test : ndarray of int64
        What is fitted on, what chooses a policy's parameter, and what is reported.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def make_splits(labels: Labels, outer_folds: int = 1, seed: int = 0) -> list[Split]:
    """Split the queries once, or so often that each is tested once.

    Groups stay whole; benchmarks are spread evenly over the parts.

    Parameters
    ----------
    labels : Labels
        What to split.
    outer_folds : int
        1: one split, the table's own if it has a `split` column (then the seed does not matter),
        else a quarter of the queries to test on. From 2: a cross-validation, every query in exactly
        one test part; a `split` column is not looked at.
    seed : int
        Decides which query goes where.

    Returns
    -------
    list of Split
        `outer_folds` of them; each covers all queries.

    Raises
    ------
    InputError
        If a part would be empty, or the table's own split has a group on two sides.
    """
    if outer_folds == 1 and labels.split is not None:
        return [_own_split(labels)]
    if outer_folds < 1:
        raise InputError(f"outer_folds is {outer_folds}; give 1 for one split, or more for folds.")
    n_parts = outer_folds if outer_folds > 1 else 4
    places = stratified_places(labels.benchmark, labels.group, seed)
    fold = np.floor(places * n_parts)
    too_few = (
        f"{labels.n_queries} queries in {len(np.unique(labels.group))} groups are too few. Use "
        "more queries or fewer outer_folds."
    )
    splits = []
    for number in range(outer_folds):
        # The stretch of the line that follows the test fold validates; the line is a ring.
        behind = (places - (number + 1) * (1 / n_parts)) % 1.0
        part = np.where(behind < VALIDATION_SHARE, "validation", "train")
        part[fold == number] = "test"
        splits.append(_split(part, too_few))
    return splits


def _split(part: np.ndarray, problem: str) -> Split:
    rows = [np.flatnonzero(part == name) for name in PARTS]
    for name, of_part in zip(PARTS, rows, strict=True):
        if not len(of_part):
            raise InputError(f"The {name} part would be empty: {problem}")
    return Split(*rows)


def _own_split(labels: Labels) -> Split:
    queries = pd.DataFrame({name: getattr(labels, name) for name in ("group", "split", "query_id")})
    sides = queries.drop_duplicates(["group", "split"]).sort_values("group", kind="stable")
    across = sides[sides["group"].duplicated(keep=False)].to_dict("records")
    if across:
        raise InputError(
            "Queries {query_id!r} ({split})".format(**across[0])
            + " and {query_id!r} ({split}) have the same text or group, ".format(**across[1])
            + "but the column 'split' puts them on different sides; put them on one."
        )
    problem = "the column 'split' names no such query; drop the column to have a split made."
    return _split(labels.split, problem)


def connected_groups(text: pd.Series, group: pd.Series) -> np.ndarray:
    """Number the groups of rows that share text or group, directly or through other rows.

    Parameters
    ----------
    text, group : Series of str, of length N
        An empty group links to nothing.

    Returns
    -------
    ndarray of int64 of shape (N,)
        From 0, in order of first appearance.
    """
    named = np.flatnonzero(group.str.strip() != "")
    texts, groups = pd.factorize(text)[0], pd.factorize(group.str.strip())[0]
    n_texts = texts.max() + 1
    ends = texts[named], n_texts + groups[named]
    n_nodes = n_texts + groups.max() + 1
    graph = coo_array((np.ones(len(named)), ends), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)
    return pd.factorize(component[texts])[0].astype(np.int64)


def stratified_places(strata: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Line up whole groups at random, with every stratum spread evenly along the line.

    Any stretch of the line holds each stratum in its share, and rows in proportion to its length:
    the first tenth is a stratified sample of a tenth, ten tenths are ten stratified folds.

    Parameters
    ----------
    strata : ndarray of shape (N,)
        A group counts as of its first row's stratum.
    group : ndarray of shape (N,)
        Rows with equal values get the same place.
    seed : int
        Decides the order.

    Returns
    -------
    ndarray of float64 of shape (N,)
        The places, between 0 and 1: the share of rows before the middle of the row's group.
    """
    rng = np.random.default_rng(seed)
    _, first, member, size = np.unique(
        group, return_index=True, return_inverse=True, return_counts=True
    )
    shuffled = pd.DataFrame({"stratum": strata[first], "size": size}).sample(
        frac=1, random_state=rng
    )
    sizes = shuffled.groupby("stratum")["size"]
    before = sizes.cumsum() - shuffled["size"]
    position = (before + rng.random(len(size)) * shuffled["size"]) / sizes.transform("sum")
    ordered = shuffled["size"].loc[position.sort_values(kind="stable").index]
    places = (ordered.cumsum() - ordered / 2) / len(group)
    return places.sort_index().to_numpy()[member]
