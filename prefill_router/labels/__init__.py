"""Who answered what correctly: the label matrix Y (N, K), NaN where a target was never asked."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np
import pandas as pd

from prefill_router.errors import MOST, InputError, check_known
from prefill_router.labels import tables
from prefill_router.labels.splits import PARTS, connected_groups, stratified_places
from prefill_router.labels.tables import Source
from prefill_router.storage import fingerprint

QUERY = ["query_id", "question", "benchmark"]
OPTIONAL = ["group", "split"]
AMOUNTS = ["output_tokens", "cost_usd"]
# what a long table may call its column of targets, in letters alone
LONG = {"model", "modelname", "modelid", "llm", "llmname"}
# row indices, and other columns that a wide table has no place for
NO_TARGET = re.compile(
    r"|unnamed.*|index|level_\d+|idx|id|row|row_?(id|no|num|number)|n[or]\.?|#|reference", re.I
)
WHOLE = re.compile(r"^0*(\d+)(\.0+)?$")  # 7, 7.0 or 007
WIDE = (
    f", as all columns of a wide table but {', '.join(QUERY + OPTIONAL)}; remove it, name the "
    "targets (targets=A,B...), or call the columns of a long table model and is_correct"
)


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
    def accuracy(self) -> np.ndarray:
        """Each target's share of right answers, (K,); NaN where it was never asked."""
        return pd.DataFrame(self.correct).mean().to_numpy()

    @property
    def summary(self) -> str:
        """How many queries there are, the targets, and how often each was right, in words."""
        shares = zip(self.targets, self.accuracy, strict=True)
        found = ", ".join(f"{name} ({share:.1%} right)" for name, share in shares)
        return f"{self.n_queries:,} queries, {self.n_targets:,} targets: {shorten(found, MOST)}"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters that identify the labels by value."""
        texts = [self.query_id, self.question, self.benchmark, self.split]
        lists = [None if text is None else text.tolist() for text in texts]
        numbers = self.correct, self.output_tokens, self.cost_usd, self.group
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
            check_known(f"{source}: target", name, self.targets)
        if len(set(names)) < len(names):
            raise InputError(f"targets: a target is named twice among {', '.join(names)}.")
        if len(names) < at_least:
            raise InputError(f"{source}: give {at_least} targets at least, not {len(names)}.")
        columns = [self.targets.index(name) for name in names]
        kept = {matrix: getattr(self, matrix)[:, columns] for matrix in ("correct", *AMOUNTS)}
        return replace(self, targets=tuple(names), **kept)


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
        See `prefill_router.labels.tables.read_table` for what can be read, and `to_long` for the
        columns it needs.
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
    name = tables.source_name(source)
    labels = _assemble(to_long(tables.read_table(source), name, targets), name)
    labels = labels.select_targets(targets or labels.targets, at_least, name)
    if 0 != n_queries < labels.n_queries:
        split = "" if labels.split is None else labels.split
        strata = np.strings.add(labels.benchmark, split)
        chosen = stratified_places(strata, labels.group, seed) < n_queries / labels.n_queries
        if not chosen.any():
            raise InputError(
                f"n_queries is {n_queries}; give 0 for all, or at least as many as a group of "
                f"{name} holds."
            )
        labels = labels.take(chosen)
    if (never := np.isnan(labels.correct).all(axis=0)).any():
        raise InputError(
            f"{name}: target {labels.targets[never.argmax()]!r} has no label on these queries; "
            "leave it out by naming the others (targets=A,B...), or ask it some of them."
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
    tables.write_table(long_table(labels), path)


def long_table(labels: Labels) -> pd.DataFrame:
    """Return labels as a long table: a row for each query and target in turn."""
    n, k = labels.correct.shape
    optional = [name for name in OPTIONAL if getattr(labels, name) is not None]
    columns = {name: np.repeat(getattr(labels, name), k) for name in QUERY}
    columns["model"] = np.tile(np.array(labels.targets, dtype=object), n)
    columns["is_correct"] = pd.array(labels.correct.ravel(), dtype="Int8")
    columns |= {name: getattr(labels, name).ravel() for name in AMOUNTS}
    columns |= {name: np.repeat(getattr(labels, name), k) for name in optional}
    return pd.DataFrame(columns)


def label_matrix(Y: np.ndarray, X: Sized) -> np.ndarray:
    """Return Y in float64, (N, K), if it is a matrix with a row for each of `X`.

    Parameters
    ----------
    Y : ndarray of shape (N, K)
    X : of length N
        What an estimator reads of the queries: texts, states, or numbers, which must be finite.

    Raises
    ------
    InputError
        If it is not, there are no rows, or `X` has numbers that are not finite.
    """
    Y = np.asarray(Y, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != len(X) or len(X) == 0:
        raise InputError(
            f"Y has shape {Y.shape}; expected ({len(X)}, K): one row per query, one column per "
            "target (y[:, None] for a single one)."
        )
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = np.argwhere(~np.isfinite(X))
        raise InputError(f"X holds what is no finite number in row {bad[0, 0]}; drop such rows.")
    return Y


def to_long(table: pd.DataFrame, name: str, targets: Sequence[str] = ()) -> pd.DataFrame:
    """Bring a label table of any recognised layout to the long one, with every cell checked.

    Parameters
    ----------
    table : pandas.DataFrame
        Text cells, as `prefill_router.labels.tables.read_table` returns them. It is *long*
        (`query_id`, `question`, `benchmark`, `model`, `is_correct`), *wide* (`query_id`,
        `question`, `benchmark` and a column a target) or the *toolkit*'s (`question`, `model`,
        `isCorrect`). Optional columns: `group`, `split`; also, where not wide, `output_tokens`,
        `cost_usd`.
    name : str
        What to call the table in an error.
    targets : sequence of str
        The columns of a wide table that are targets; none means all that are left.

    Returns
    -------
    pandas.DataFrame
        `query_id`, `question`, `benchmark`, `model`, `is_correct`, `output_tokens`, `cost_usd`
        (float64, NaN where missing), `text` (the normalised question) and, if given, `group` and
        `split`; indexed by the row in `table`.

    Raises
    ------
    InputError
        If a column is missing, a cell is empty that must not be, or holds what it cannot; if a
        column of a wide table is no target by its name; or if names differ in white space or case
        alone: of targets, of benchmarks, or of queries that have the same question.
    """
    given, cells = [column for column in OPTIONAL if column in table], CELLS
    folded = {re.sub(r"[\W_]", "", column.casefold()) for column in table}
    if "isCorrect" in table:
        tables.require(table, ["question", "model"], name, "the toolkit's label table")
        names = {text: fingerprint(normalise(text)) for text in table["question"].unique()}
        made = {"query_id": table["question"].map(names), "benchmark": "all"}
        table = table.assign(**{n: values for n, values in made.items() if n not in table})
        table = table.rename(columns={"isCorrect": "is_correct"})
    elif LONG & folded or difflib.get_close_matches("iscorrect", folded, cutoff=0.8):
        tables.require(table, [*QUERY, "model", "is_correct"], name, "a long label table")
    else:
        tables.require(table, QUERY, name, "a label table (wide; a long one has model, too)")
        kept = [*QUERY, *given]
        columns = table.columns.difference(kept, sort=False)
        for target in targets:
            check_known(f"{name}: target", target, columns)
        for column in filter(NO_TARGET.fullmatch, columns[: 0 if targets else None]):
            raise InputError(f"{name}: column {column!r} would be a target{WIDE}.")
        columns = list(targets) or columns
        table = table.melt(kept, columns, "model", "is_correct", ignore_index=False)
        cells = CELLS | {"is_correct": (CELLS["is_correct"][0], CELLS["is_correct"][1] + WIDE)}
    table = tables.checked_cells(table, cells, name)
    table["text"] = table["question"].map({q: normalise(q) for q in table["question"].unique()})
    for column, keys in (("model", []), ("benchmark", []), ("query_id", ["text"])):
        names = {n: WHOLE.sub(r"\1", normalise(n).casefold()) for n in table[column].unique()}
        _check_agree(table.assign(name=table[column].map(names)), ["name", *keys], column, name)
    return table.reindex(columns=[*QUERY, "model", "is_correct", *AMOUNTS, "text", *given])


def normalise(text: str) -> str:
    """Return `text` as it is compared: Unicode NFC, runs of whitespace as one space.

    Case is kept: questions that differ in case are different questions.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def _answer(text: str) -> float | None:
    value = {"true": 1.0, "false": 0.0}.get(text.strip().lower(), tables.number(text))
    return value if value in (0, 1) else None


def _part(text: str) -> str | None:
    return text.strip() if text.strip() in PARTS else None


CELLS = {
    **dict.fromkeys([*QUERY, "model"], (tables.filled, "filled in (or drop the row)")),
    "is_correct": (tables.optional(_answer), "0 or 1 (or nothing, where it was never asked)"),
    **dict.fromkeys(
        AMOUNTS, (tables.optional(tables.number), "a number that is not negative (or nothing)")
    ),
    "split": (_part, f"one of {', '.join(PARTS)}"),
}
"""How the cells of a long table are read, and what they must be."""


def _assemble(table: pd.DataFrame, name: str) -> Labels:
    """Make the matrices from a checked long table."""
    for column in table.columns.intersection(["text", "benchmark", *OPTIONAL]):
        _check_agree(table, ["query_id"], column, name)
    for column in ("is_correct", *AMOUNTS):
        _check_agree(table, ["query_id", "model"], column, name)
    queries = table.drop_duplicates("query_id")
    targets, no_group = table["model"].unique(), pd.Series("", queries.index)
    every = pd.MultiIndex.from_product([queries["query_id"], targets])
    known = table.groupby(["query_id", "model"])[["is_correct", *AMOUNTS]].first().reindex(every)
    shape = len(queries), len(targets)
    correct, tokens, cost = (known[column].to_numpy(float).reshape(shape) for column in known)
    return Labels(
        query_id=queries["query_id"].to_numpy(str),
        question=queries["question"].to_numpy(object),
        benchmark=queries["benchmark"].to_numpy(str),
        targets=tuple(map(str, targets)),
        correct=correct,
        output_tokens=tokens,
        cost_usd=cost,
        group=connected_groups(queries["text"], queries.get("group", no_group)),
        split=queries["split"].to_numpy(str) if "split" in queries else None,
    )


def _check_agree(table: pd.DataFrame, keys: list[str], column: str, name: str) -> None:
    """Raise InputError where rows of the same query (and target) differ in a column."""
    variants = table.dropna(subset=column).drop_duplicates([*keys, column])
    differing = variants[variants.duplicated(keys, keep=False)].sort_values(keys, kind="stable")
    if len(differing):
        which = ", ".join(f"{key} {differing[key].iloc[0]!r:.60}" for key in keys)
        values = (f"{value!r:.60} (row {row})" for row, value in differing[column].items())
        raise InputError(
            f"{name}: rows of {which} differ in {column}, {next(values)} and {next(values)}; keep "
            "one, or give different queries different ids."
        )
