"""Who answered what correctly: the label matrix Y (N, K), NaN where a target was never asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from prefill_router.errors import InputError, did_you_mean
from prefill_router.labels.formats import AMOUNTS, OPTIONAL, QUERY, ROW, one_per_query, to_long
from prefill_router.labels.splits import connected_groups, stratified_places
from prefill_router.labels.tables import Source, read_table, source_name, write_table
from prefill_router.storage import fingerprint


@dataclass(frozen=True, eq=False)
class Labels:
    """Queries, targets, and which target answered which query correctly.

    Parameters
    ----------
    query_id, question, benchmark : ndarray of shape (N,)
        Names (str), texts (object) and benchmarks (str) of the queries.
    targets : tuple of str, of length K
        Names of the targets.
    correct : ndarray of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    output_tokens, cost_usd : ndarray of shape (N, K)
        Length of the answer in tokens and its cost in US dollars; NaN unknown.
    group : ndarray of int64 of shape (N,)
        Queries of the same group (the same text, say) must stay on one side of every split.
    split : ndarray of str of shape (N,), optional
        ``train``, ``validation`` or ``test``, where the table says so.
    """

    query_id: np.ndarray
    question: np.ndarray
    benchmark: np.ndarray
    targets: tuple[str, ...]
    correct: np.ndarray
    output_tokens: np.ndarray
    cost_usd: np.ndarray
    group: np.ndarray
    split: np.ndarray | None = None

    @property
    def n_queries(self) -> int:
        """Number of queries N."""
        return len(self.query_id)

    @property
    def n_targets(self) -> int:
        """Number of targets K."""
        return len(self.targets)

    @property
    def complete(self) -> np.ndarray:
        """Whether every target was asked: ndarray of bool of shape (N,)."""
        return ~np.isnan(self.correct).any(axis=1)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters that identify the labels by value."""
        texts = (self.query_id, self.question, self.benchmark, self.split)
        lists = [None if text is None else text.tolist() for text in texts]
        numbers = (self.correct, self.output_tokens, self.cost_usd, self.group)
        return fingerprint(*lists, list(self.targets), *numbers)

    def take(self, rows: np.ndarray) -> Labels:
        """Return the labels of some queries: row numbers (n,) or a mask (N,)."""
        arrays = {name: v for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **{name: array[rows] for name, array in arrays.items()})

    def select_targets(
        self, names: Sequence[str], at_least: int = 2, source: str = "the labels"
    ) -> Labels:
        """Return the labels of some targets, in the order given; every query is kept.

        An error calls the labels `source`.

        Raises
        ------
        InputError
            If a target is unknown, named twice, or fewer than `at_least` are named.
        """
        for name in names:
            if name not in self.targets:
                hint = did_you_mean(name, self.targets)
                raise InputError(f"Unknown target {name!r}: {source} has none of that name.{hint}")
        _check_targets(names, "targets", at_least)
        columns = [self.targets.index(name) for name in names]
        matrices = ("correct", *AMOUNTS)
        kept = {matrix: getattr(self, matrix)[:, columns] for matrix in matrices}
        return replace(self, targets=tuple(names), **kept)

    def summary(self) -> pd.DataFrame:
        """Describe each target.

        Returns
        -------
        pandas.DataFrame
            Indexed by `target`: `n_labelled` (queries it was asked), `accuracy` on them,
            `mean_output_tokens`, and `constant`: its labels do not vary (always right, always
            wrong, or none), so that no AUC exists and nothing can be learned for it.
        """
        correct = pd.DataFrame(self.correct, columns=list(self.targets))
        tokens = pd.DataFrame(self.output_tokens, columns=list(self.targets))
        columns = {
            "n_labelled": correct.count(),
            "accuracy": correct.mean(),
            "mean_output_tokens": tokens.mean(),
            "constant": correct.nunique() < 2,
        }
        return pd.DataFrame(columns).rename_axis("target")


def load_labels(
    source: Source,
    targets: Sequence[str] = (),
    n_queries: int = 0,
    seed: int = 0,
    at_least: int = 2,
) -> Labels:
    """Load a label table: long, wide or the toolkit's, from a file, a data set or the hub.

    Parameters
    ----------
    source : str, path-like or pandas.DataFrame
        See `prefill_router.labels.tables.read_table` for what can be read, and
        `prefill_router.labels.formats.to_long` for the columns it needs.
    targets : sequence of str
        The targets to keep, in this order; none means all, in order of first appearance.
    n_queries : int
        If positive and less than there are: keep about so many (whole groups; exactly so many
        where each group is one query), drawn at random within each benchmark (and split).
    seed : int
        Decides which.
    at_least : int, default 2
        Targets there must be: routing needs two, adding one to a router that one alone.

    Returns
    -------
    Labels

    Raises
    ------
    InputError
        If the table cannot be used; the message names row, column or target.
    """
    name = source_name(source)
    labels = _assemble(to_long(read_table(source), name, targets), name, at_least)
    if targets:
        labels = labels.select_targets(targets, at_least, name)
    if n_queries < 0:
        raise InputError(f"n_queries is {n_queries}; give a positive number, or 0 for all.")
    if 0 < n_queries < labels.n_queries:
        strata = labels.benchmark
        if labels.split is not None:
            strata = np.strings.add(np.strings.add(strata, " "), labels.split)
        chosen = stratified_places(strata, labels.group, seed) < n_queries / labels.n_queries
        if not chosen.any():
            raise InputError(
                f"n_queries is {n_queries}, which is less than a group of {name} holds."
            )
        labels = labels.take(chosen)
    never = [t for t, y in zip(labels.targets, labels.correct.T, strict=True) if np.isnan(y).all()]
    if never:
        raise InputError(
            f"{name}: target {', '.join(map(repr, never))} has no label on these queries; leave it "
            "out by naming the others (targets=A,B...), or ask it some of them."
        )
    return labels


def write_labels(labels: Labels, path: str | os.PathLike) -> None:
    """Write labels as a long table; `load_labels` reads the same back (groups renumbered).

    Parameters
    ----------
    labels : Labels
        What to write. A target that was never asked has a row too, with `is_correct` empty.
    path : path-like
        Ends in ``.csv``, ``.csv.gz`` or ``.parquet``.
    """
    n, k = labels.correct.shape
    optional = [name for name in OPTIONAL if getattr(labels, name) is not None]
    columns = {name: np.repeat(getattr(labels, name), k) for name in QUERY}
    columns["model"] = np.tile(np.array(labels.targets, dtype=object), n)
    columns["is_correct"] = pd.array(labels.correct.ravel(), dtype="Int8")
    columns |= {name: getattr(labels, name).ravel() for name in AMOUNTS}
    columns |= {name: np.repeat(getattr(labels, name), k) for name in optional}
    write_table(pd.DataFrame(columns), path)


def label_matrix(Y: np.ndarray, n_rows: int) -> np.ndarray:
    """Return Y in float64, (N, K), if it is a matrix of `n_rows` rows.

    Raises
    ------
    InputError
        If it is not, or has no rows.
    """
    Y = np.asarray(Y, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != n_rows or n_rows == 0:
        raise InputError(
            f"Y has shape {Y.shape}; expected ({n_rows}, K): one row per query, one column per "
            "target (y[:, None] for a single one)."
        )
    return Y


def _check_targets(names: Sequence[str], where: str, at_least: int) -> None:
    if len(set(names)) < len(names):
        raise InputError(f"{where}: a target is named twice among {', '.join(names)}.")
    if len(names) < at_least:
        given = f"only {names[0]!r}" if len(names) else "none"
        wanted = "one target" if at_least == 1 else f"{at_least} targets"
        raise InputError(f"{where}: at least {wanted} must be there, and there is {given}.")


def _assemble(table: pd.DataFrame, name: str, at_least: int) -> Labels:
    """Make the matrices from a checked long table."""
    query, query_id = pd.factorize(table["query_id"])
    target, targets = pd.factorize(table["model"])
    _check_targets(list(targets), name, at_least)
    queries = one_per_query(table, name)

    cell = query * len(targets) + target
    cells = table.groupby(cell)
    differ = cells["is_correct"].min() < cells["is_correct"].max()
    if differ.any():
        rows = table[cell == differ.idxmax()]
        raise InputError(
            f"{name}: query {rows['query_id'].iloc[0]!r} has different answers of target "
            f"{rows['model'].iloc[0]!r} in rows {', '.join(map(str, rows[ROW]))}; keep one."
        )
    shape = len(query_id), len(targets)
    known = cells[["is_correct", *AMOUNTS]].first().reindex(range(shape[0] * shape[1]))
    correct, tokens, cost = (known[column].to_numpy(float).reshape(shape) for column in known)
    return Labels(
        query_id=query_id.to_numpy(str),
        question=queries["question"].to_numpy(object),
        benchmark=queries["benchmark"].to_numpy(str),
        targets=tuple(map(str, targets)),
        correct=correct,
        output_tokens=tokens,
        cost_usd=cost,
        group=connected_groups(queries.reindex(columns=["text", "group"], fill_value="")),
        split=queries["split"].to_numpy(str) if "split" in queries else None,
    )
