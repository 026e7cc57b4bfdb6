"""Groups of queries that must stay together: which belong together, and how to line them up."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connected_groups(table: pd.DataFrame) -> np.ndarray:
    """Number the groups of rows that share a value in any column, directly or through others.

    Parameters
    ----------
    table : pandas.DataFrame of shape (N, n_columns)
        Text cells; an empty one links to nothing.

    Returns
    -------
    ndarray of int64 of shape (N,)
        From 0, in order of first appearance.
    """
    n = len(table)
    rows, values = [], []
    for number, column in enumerate(table, start=1):
        filled = np.flatnonzero(table[column].str.strip() != "")
        rows.append(filled)
        values.append(number * n + pd.factorize(table[column].iloc[filled].str.strip())[0])
    edges = np.concatenate(rows), np.concatenate(values)
    nodes = n * (table.shape[1] + 1)  # the rows, and for each column at most n values
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    return pd.factorize(component[:n])[0].astype(np.int64)


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
