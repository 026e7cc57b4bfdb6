"""Labels by asking: every target answers every query, the answers are graded and priced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prefill_router.answers.asking import answer_cost, ask_endpoints
from prefill_router.answers.generation import GREEDY, Decoding
from prefill_router.answers.grading import Grader, check_reference, exact_match, grade
from prefill_router.answers.ledger import Reply
from prefill_router.answers.local import collect
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError
from prefill_router.extraction.sources import ModelSource, resolve
from prefill_router.extraction.templates import check_questions
from prefill_router.labels.costs import Prices
from prefill_router.labels.formats import to_long
from prefill_router.labels.tables import as_text, write_table

NEEDED = ("query_id", "question", "benchmark", "reference")
PASSED_ON = ("group", "split")
FORMATS = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True, eq=False)
class Collection:
    """What a collection brought.

    Attributes
    ----------
    labels : pandas.DataFrame
        The long table: query_id, question, benchmark, model, is_correct, output_tokens, cost_usd
        where an endpoint has a price (at that price, whatever an earlier run was charged), and
        what is passed on; a row for each target and query.
        A query without an answer has an empty label, which is missing and not wrong.
    spent_usd, uncertain_usd : float
        What endpoints charged, runs before included, and what they may have charged besides for
        answers that were lost, at most.
    problems : list of str
        How many answers of a target were cut off, and what went wrong, in words; empty if every
        query has its whole answer.
    """

    labels: pd.DataFrame
    spent_usd: float = 0.0
    uncertain_usd: float = 0.0
    problems: list[str] = field(default_factory=list)


def collect_labels(
    targets: Sequence[str | Endpoint],
    queries: pd.DataFrame,
    out: str | Path,
    grader: Grader = exact_match,
    decoding: Decoding = GREEDY,
    *,
    prices: Prices | None = None,
    cap_usd: float | None = None,
    **settings: Any,
) -> Collection:
    """Ask every target every query and write the label table.

    Parameters
    ----------
    targets : sequence of (str or Endpoint)
        Local models by name, as for `prefill_router.extraction.sources.resolve`, and models behind
        endpoints; their names fill the column ``model``.
    queries : DataFrame
        Columns ``query_id``, ``question``, ``benchmark``, ``reference``; ``group`` and ``split``
        are passed on.
    out : path-like
        A ``.parquet``, ``.csv`` or ``.csv.gz`` file. Answers are kept beside it, in the directory
        ``<out>.parts``, and make a rerun go on where it stopped; delete it when done.
    grader, decoding
        As for `prefill_router.answers.local.collect`. Another grader asks nothing anew.
    prices : Prices, optional
        Of endpoints, by name.
    cap_usd : float, optional
        As for `prefill_router.answers.asking.ask_endpoints`.
    **settings
        ``batch_size``, ``chunk_size`` and ``device``, as for
        `prefill_router.answers.local.collect`.

    Returns
    -------
    Collection

    Raises
    ------
    InputError
        If a column is missing, a cell is empty or nothing that a label table may hold, a reference
        is none that the grader can use, a query_id occurs twice, a target is named twice, or the
        format of `out` is unknown: all before anything is asked. Otherwise as for
        `prefill_router.answers.local.collect` and `prefill_router.answers.asking.ask_endpoints`.
    """
    out = Path(out)
    endpoints = [target for target in targets if isinstance(target, Endpoint)]
    names = [getattr(target, "name", target) for target in targets]
    _check_request(names, queries, out, grader)
    # all, before hours go into the first
    sources = {name: _source(name) for name in targets if isinstance(name, str)}
    for endpoint in endpoints:
        endpoint.secret()
    questions = check_questions(queries["question"].tolist())
    references = as_text(queries["reference"]).tolist()
    parts = out.with_name(out.name + ".parts")
    answers, rest, problems = {}, {}, []
    if endpoints:
        asked = ask_endpoints(
            endpoints, questions, decoding, parts / "answers.jsonl", prices, cap_usd
        )
        rest = {"spent_usd": asked.spent, "uncertain_usd": asked.uncertain}
        problems = asked.problems
        for name, replies in asked.replies.items():
            answers[name] = _graded(name, questions, replies, references, grader, prices)
    for name, source in sources.items():
        table = collect(source, questions, references, grader, decoding, work=parts, **settings)
        answers[name] = table.assign(cut_off=table["output_tokens"] >= decoding.max_new_tokens)
    columns = ["query_id", "question", "benchmark"]
    passed_on = [column for column in PASSED_ON if column in queries]
    measured = ["is_correct", "output_tokens"]
    measured += ["cost_usd"] * any("cost_usd" in table for table in answers.values())
    tables = []
    for name in names:
        table = queries[columns].reset_index(drop=True).assign(model=name)
        table[measured] = answers[name].reindex(columns=measured)
        table[passed_on] = queries[passed_on].reset_index(drop=True)
        tables.append(table)
    labels = pd.concat(tables, ignore_index=True)
    for column in ("is_correct", "output_tokens"):
        labels[column] = labels[column].astype("Int64" if labels[column].isna().any() else "int64")
    write_table(labels, out)
    problems = _cut_off(answers, decoding.max_new_tokens) + problems
    return Collection(labels, **rest, problems=problems)


def _source(name: str) -> ModelSource:
    try:
        return resolve(name)
    except InputError as error:
        raise InputError(f"Target {name!r}: {error}") from None


def _graded(
    name: str,
    questions: Sequence[str],
    replies: Sequence[Reply | None],
    references: Sequence[str],
    grader: Grader,
    prices: Prices | None,
) -> pd.DataFrame:
    """Return grades, lengths, what is cut off and, where known, costs; NaN without an answer.

    Costs are at `prices`, not what the ledger says was charged: a price may have been corrected.
    """
    rows = [
        (np.nan, None, np.nan, None)
        if reply is None
        else (
            grade(grader, question, reply.text, reference),
            reply.output_tokens,
            reply.finish == "length",
            answer_cost(prices, name, reply.input_tokens, reply.output_tokens),
        )
        for question, reply, reference in zip(questions, replies, references, strict=True)
    ]
    columns = ["is_correct", "output_tokens", "cut_off", "cost_usd"]
    frame = pd.DataFrame(rows, columns=columns, dtype=float)
    return frame if frame["cost_usd"].notna().any() else frame.drop(columns="cost_usd")


def _cut_off(answers: Mapping[str, pd.DataFrame], limit: int) -> list[str]:
    """Say of which targets how many answers were cut off, which may have been right."""
    return [
        f"{name}: {table['cut_off'].sum():.0f} of {table['cut_off'].count()} answers are as long "
        f"as max_new_tokens ({limit}) allows, probably cut off, and graded as they stand; another "
        "max_new_tokens asks, and pays for, every question again"
        for name, table in answers.items()
        if table["cut_off"].any()
    ]


def _check_request(names: Sequence[str], queries: pd.DataFrame, out: Path, grader: Grader) -> None:
    missing = [column for column in NEEDED if column not in queries]
    if missing:
        raise InputError(f"queries lack the column {missing[0]}; there are {list(queries)}.")
    columns = [column for column in (*NEEDED, *PASSED_ON) if column in queries]
    texts = queries[columns].apply(as_text)
    repeated = texts["query_id"][texts["query_id"].duplicated()]
    if len(repeated):
        raise InputError(f"query_id {repeated.iloc[0]!r} occurs more than once in queries.")
    if not names or len(set(names)) < len(names):
        raise InputError(f"targets {list(names)} must be one or more different models.")
    if not out.name.endswith(FORMATS):
        raise InputError(f"{out} must end in {', '.join(FORMATS)}.")
    # what reads the labels must not find fault with them once they are paid for
    to_long(texts.assign(model=names[0], is_correct=""), "queries")
    for query_id, reference in zip(texts["query_id"], texts["reference"], strict=True):
        try:
            check_reference(grader, reference)
        except InputError as error:
            raise InputError(f"queries, query {query_id!r}: {error}") from None
