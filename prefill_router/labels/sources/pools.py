"""What the public result files of many models have in common."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from prefill_router.errors import InputError
from prefill_router.labels import normalise

COMPLETE = 0.99
"""A target must have answered this share of each benchmark, and of all as most files have them."""
DAMAGE = (OSError, LookupError, ValueError, TypeError, AttributeError)
PIECE = re.compile(r"\d{1,3}|[^\W\d_]+|[^\w\s]+|_+|\n+")


def count_tokens(text: str) -> int:
    """Return about how many tokens a text has: words, runs of signs, and digits by three.

    In both pools it is 2 to 10 % below the count of OpenAI's cl100k, depending on the target; over
    all answers their correlation is at least 0.99.
    """
    return len(PIECE.findall(text))


@dataclass(frozen=True)
class Pool:
    """Where a repository has models' answers, and how labels are made of them.

    Attributes
    ----------
    patterns : tuple of str
        Where its result files are; each must match.
    records : callable
        Returns what a file holds; what is no mapping is no answer.
    row : callable
        Makes of a record and its path a row of a long table, with `stem`, the question without its
        options, and `reference`, the right answer.
    """

    patterns: tuple[str, ...]
    records: Callable[[Path], Iterable[Any]]
    row: Callable[[dict[str, Any], Path], dict[str, Any]]

    def read(self, directory: Path, report: list[str]) -> pd.DataFrame:
        """Make a complete label matrix of a clone's result files.

        Models with few answers, or with another version of the benchmark (`COMPLETE`), are left
        out; then queries that a model did not answer with the text and reference that most files
        have, or that repeat an earlier text. Queries with one stem are one group.

        Parameters
        ----------
        directory : pathlib.Path
            The clone.
        report : list of str
            Is given what is left out.

        Returns
        -------
        DataFrame
            A long label table with `group`, sorted by query and model.

        Raises
        ------
        InputError
            If there are no results, or a file is damaged.
        """
        rows = []
        for pattern in self.patterns:
            if not (files := sorted(directory.glob(pattern))):
                raise InputError(
                    f"{directory} has no {pattern}; give a clone of the repository that has it "
                    "(prefill-router labels --help tells where it is)."
                )
            rows += (row for path in files for row in self._rows(path))
        label = ["query_id", "model"]
        table = pd.DataFrame(rows, dtype=object).drop_duplicates(label).sort_values(label)
        return _complete(table, report)

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        try:
            rows = [self.row(each, path) for each in self.records(path) if isinstance(each, dict)]
            if not rows:
                raise ValueError("it holds no answers")
        except (*DAMAGE, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{path} is damaged ({error!r:.200}); restore it (git checkout), or delete it to "
                "do without its model."
            ) from error
        return rows


def _complete(table: pd.DataFrame, report: list[str]) -> pd.DataFrame:
    alike = table.groupby(["query_id", "question", "reference"])["model"].transform("size")
    usual = 2 * alike > table["model"].nunique()
    answered = table.groupby(["benchmark", "model"]).size().unstack(fill_value=0)
    share = answered.div(table.groupby("benchmark")["query_id"].nunique(), axis=0).min()
    share = share.clip(upper=usual.groupby(table["model"]).mean())
    kept = table[usual & (table["model"].map(share) >= COMPLETE)]
    kept = kept[kept.groupby("query_id")["model"].transform("size") == kept["model"].nunique()]
    texts = kept.drop_duplicates("query_id").set_index("query_id")["question"].map(normalise)
    new = ~texts.duplicated()
    left_out = ", ".join(share.index[share < COMPLETE])
    n_incomplete = table["query_id"].nunique() - len(texts)
    report += [
        f"Models left out, with few answers or another version: {left_out or 'none'}.",
        f"Queries left out: {n_incomplete} that not every model answered with the same text and "
        f"reference, {(~new).sum()} that repeat a text.",
    ]
    if kept.empty:
        raise InputError("\n".join([*report, "No query is left to make labels of."]))
    kept = kept[kept["query_id"].map(new)]
    group = kept.groupby(kept["stem"].map(normalise))["query_id"].transform("first")
    kept = kept.drop(columns=["stem", "reference"]).assign(group=group)
    return kept.astype({"is_correct": int, "output_tokens": int}).reset_index(drop=True)
