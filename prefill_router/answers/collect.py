"""Labels by asking: every target answers every query, the answers are graded and priced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from prefill_router.answers import grading, reading
from prefill_router.answers.asking import answer_cost, ask_endpoints
from prefill_router.answers.generation import GREEDY, Decoding, ask_model
from prefill_router.answers.ledger import Ledger
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError
from prefill_router.extraction.prompts import check_questions
from prefill_router.extraction.sources import resolve
from prefill_router.labels import to_long
from prefill_router.labels.costs import Prices
from prefill_router.labels.tables import WRITTEN, as_text, require, write_table

NEEDED = ["query_id", "question", "benchmark", "reference"]
PASSED_ON = ["group", "split"]
MEASURED = ["is_correct", "output_tokens", "cost_usd", "answer", "fault"]
GRADED = ["model", "reference", "answer", "is_correct", "fault"]
FAULTS = ["cut off", "empty", "unreadable"]  # of an answer, see `find_fault`
FAULTS_TOLD = 0.03  # a target with more answers of one fault, as a share, is told of


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
    graded : pandas.DataFrame
        Every answer beside its reference: model, reference, answer, is_correct and fault (cut off,
        empty, unreadable by the grader, or nothing).
    spent_usd, uncertain_usd : float
        What endpoints charged, runs before included, and what they may have charged besides for
        answers that were lost, at most.
    problems : list of str
        Which targets have many answers with a fault, and what went wrong, in words.
    """

    labels: pd.DataFrame
    graded: pd.DataFrame
    spent_usd: float = 0.0
    uncertain_usd: float = 0.0
    problems: list[str] = field(default_factory=list)


def collect_labels(
    targets: Sequence[str | Endpoint],
    queries: pd.DataFrame,
    out: str | Path,
    grader: grading.Grader = grading.exact_match,
    decoding: Decoding = GREEDY,
    *,
    prices: Prices | None = None,
    cap_usd: float | None = None,
    regrade: bool = False,
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
    grader : callable, default `exact_match`
        From answer and reference to whether the answer is right. Another grader asks nothing anew.
    decoding : Decoding
        How answers are generated.
    prices : Prices, optional
        Of endpoints, by name.
    cap_usd : float, optional
        As for `prefill_router.answers.asking.ask_endpoints`.
    regrade : bool, default False
        Grade the answers that are kept, and ask nobody.
    **settings
        ``batch_size``, ``chunk_size`` and ``device``, as for
        `prefill_router.answers.generation.ask_model`.

    Returns
    -------
    Collection

    Raises
    ------
    InputError
        If a column is missing, a cell is empty or nothing that a label table may hold, a reference
        is none that the grader can use, a query_id occurs twice, a target is named twice, or the
        format of `out` is unknown: all before anything is asked. If no answer is kept that could be
        graded again. Otherwise as for
        `prefill_router.answers.generation.ask_model` and
        `prefill_router.answers.asking.ask_endpoints`.
    """
    out = Path(out)
    names = [getattr(target, "name", target) for target in targets]
    _check_request(names, queries, out, grader)
    # all, before hours go into the first
    sources = {name: resolve(name) for name in targets if isinstance(name, str)}
    endpoints = {target.name: target for target in targets if isinstance(target, Endpoint)}
    queries = queries.reset_index(drop=True)
    questions = check_questions(queries["question"].tolist())
    references = as_text(queries["reference"])
    parts, ledger = out.with_name(out.name + ".parts"), Ledger()
    if endpoints:
        journal, asked = parts / "answers.jsonl", [] if regrade else [*endpoints.values()]
        ledger = ask_endpoints(asked, questions, decoding, journal, prices, cap_usd)
    tables, settings = [], settings | {"kept": regrade}
    for name in names:
        if name in sources:
            replies = ask_model(sources[name], questions, decoding, work=parts, **settings)
        else:
            keys = (endpoints[name].answer_key(question, decoding) for question in questions)
            replies = [ledger.answers.get(key) for key in keys]
        # where prompts open the thinking, an answer that is cut off may hold nothing else, untagged
        opens = any(reply and reading.opened_before(reply.text) for reply in replies)
        measured = [(None,) * len(MEASURED)] * len(replies)
        for i, reply in enumerate(replies):
            if reply:  # its cost at `prices`: since it was charged, one may have been corrected
                text = "<think>" * (opens and reply.finish == "length") + reply.text
                is_correct = grading.grade(grader, questions[i], text, references[i])
                cost = answer_cost(prices, name, reply.input_tokens, reply.output_tokens)
                fault = grading.find_fault(grader, reply)
                measured[i] = is_correct, reply.output_tokens, cost, reply.text, fault
        measured = pd.DataFrame(measured, columns=MEASURED).astype({"cost_usd": float})
        tables.append(queries.assign(model=name, **measured))
    table = pd.concat(tables, ignore_index=True)
    graded = table.loc[table["answer"].notna(), GRADED]
    if regrade and graded.empty:
        raise InputError(f"{parts} keeps no answer to these queries; collect without regrade.")
    labels = table.reindex(columns=[*NEEDED[:3], "model", *MEASURED[:3], *PASSED_ON])
    labels = labels.drop(columns=[c for c in ("cost_usd", *PASSED_ON) if labels[c].isna().all()])
    for column in ("is_correct", "output_tokens"):
        labels[column] = labels[column].astype("Int64" if labels[column].isna().any() else "int64")
    write_table(labels, out)
    problems = _tell_faults(graded) + ledger.problems
    return Collection(labels, graded, ledger.spent, ledger.uncertain, problems)


def count_faults(graded: pd.DataFrame) -> pd.DataFrame:
    """Return how many answers of each target, the rows, have which fault, the columns."""
    return pd.crosstab(graded["model"], graded["fault"]).reindex(columns=FAULTS, fill_value=0)


def _tell_faults(graded: pd.DataFrame) -> list[str]:
    n = graded["model"].value_counts()
    return [
        f"{name}: {count} of {n[name]} answers are {fault}, and graded as they stand; another "
        "max_new_tokens asks, and pays for, every question again, another grader asks nobody"
        for (name, fault), count in count_faults(graded).stack().items()
        if count > FAULTS_TOLD * n[name]
    ]


def _check_request(
    names: Sequence[str], queries: pd.DataFrame, out: Path, grader: grading.Grader
) -> None:
    require(queries, NEEDED, "queries", "a collection")
    texts = queries[[c for c in (*NEEDED, *PASSED_ON) if c in queries]].apply(as_text)
    repeated = texts["query_id"][texts["query_id"].duplicated()]
    if len(repeated):
        raise InputError(f"query_id {repeated.iloc[0]!r} occurs more than once in queries.")
    if not names or len(set(names)) < len(names):
        raise InputError(f"targets {list(names)} must be one or more different models.")
    if not out.name.endswith(WRITTEN):
        raise InputError(f"{out} must end in {', '.join(WRITTEN)}.")
    # what reads the labels must not find fault with them once they are paid for
    texts = texts.set_axis(range(1, len(texts) + 1))
    to_long(texts.assign(model=names[0], is_correct=""), "queries")
    for query_id, reference in zip(texts["query_id"], texts["reference"], strict=True):
        try:
            grading.check_reference(grader, reference)
        except InputError as error:
            raise InputError(f"queries, query {query_id!r}: {error}") from None
