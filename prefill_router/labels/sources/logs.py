"""Evaluation logs, each of one model on one task, joined into a label table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from prefill_router.errors import InputError
from prefill_router.labels.sources import inspect_logs, lm_eval

COLUMNS = ["query_id", "question", "benchmark", "model", "is_correct", "output_tokens"]
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's letters: correct, partially correct, incorrect, no answer."""


def read_logs(
    sources: Sequence[Path], report: list[str], metrics: Sequence[str], threshold: float | None
) -> pd.DataFrame:
    """Make a label table of logs of lm-evaluation-harness, of Inspect, or of both.

    Queries are matched by task, and by what identifies them in it: the harness's hash of the
    document, or the text and target that Inspect logs. The k-th draw of a query, from k = 2, is the
    query ``ID#k``; its text is the same, and so its group.

    Parameters
    ----------
    sources : sequence of pathlib.Path
        Logs, or directories that hold some at any depth.
    report : list of str
        Is given a sentence for each log that is left out, with the remedy; for labels left empty
        because two runs of a model disagree; and for queries that differ between logs.
    metrics, threshold
        See `is_correct`.

    Returns
    -------
    DataFrame
        A long label table.

    Raises
    ------
    InputError
        If a source is no log and holds none, or none can be used.
    """
    tables = []
    for path, read in {path: read for s in sources for path, read in _find(s).items()}.items():
        try:
            table, scores = read(path)
            right = is_correct(scores, path, metrics, threshold)
            tables.append(table.assign(is_correct=right, path=str(path), reader=read.__module__))
        except InputError as error:
            report.append(str(error))
    if not tables:
        raise InputError("\n".join(report))
    return _join(pd.concat(tables, ignore_index=True), report)


def is_correct(
    scores: pd.DataFrame, path: Path, metrics: Sequence[str] = (), threshold: float | None = None
) -> pd.Series:
    """Return whether answers are right, by the only metric that can say so.

    Parameters
    ----------
    scores : DataFrame
        One row per answer, one column per metric, named ``METRIC`` or ``METRIC,DETAIL``.
    path : pathlib.Path
        The log, for errors.
    metrics : sequence of str
        The metrics that may be taken, named with or without detail; none means any.
    threshold : float, optional
        A score of at least this is right; without it only metrics that are 0 or 1 can be taken.

    Returns
    -------
    Series of float64
        1, 0, or NaN where there is no score.

    Raises
    ------
    InputError
        If no metric can be taken, or more than one.
    """
    values = scores.map(_number).astype(float).dropna(axis="columns", how="all")
    binary = values.columns[values.isin([0, 1, float("nan")]).all()]
    usable = [
        name
        for name in (binary if threshold is None else values)
        if not metrics or {name, name.partition(",")[0]} & {*metrics}
    ]
    if len(usable) != 1:
        raise InputError(
            f"{path}: {len(usable) or 'no'} metrics can say whether an answer is right; choose one "
            "with --metric NAME. One that is not 0 or 1 needs --threshold X too: at least X is "
            f"right. 0 or 1: {', '.join(binary) or 'none'}; all: {', '.join(values) or 'none'}."
        )
    chosen = values[usable[0]]
    return chosen if usable[0] in binary else (chosen >= threshold).where(chosen.notna()) * 1.0


def _number(value: Any) -> float | None:
    known = GRADES.get(value) if isinstance(value, str) else value
    return known if isinstance(known, int | float) else None


def _find(source: Path) -> dict:
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    found = {path: lm_eval.read for file in files for path in lm_eval.samples_of(file)}
    found |= {file: inspect_logs.read for file in files if inspect_logs.NAME.fullmatch(file.name)}
    if not found:
        raise InputError(
            f"{source}: no logs. They are samples_TASK_DATE.jsonl beside results_DATE.json, by "
            "lm_eval --log_samples --output_path DIR, or DATE_TASK_ID.eval or .json, by Inspect."
        )
    return found


def _join(table: pd.DataFrame, report: list[str]) -> pd.DataFrame:
    def differing(values: str, by: str | list[str], name: str, why: str) -> pd.Series:
        differ = table.groupby(by)[values].transform("nunique") > 1
        for about, rows in table[differ].groupby(name):
            n, paths = rows["query_id"].nunique(), ", ".join(rows["path"].unique())
            report.append(f"{about}: {n} queries {why} ({paths}).")
        return differ

    why = "are of versions that differ; the first is kept. Run all with one, or make two tables"
    task = ["benchmark", "reader"]
    differing("version", task, "benchmark", why)
    first = table.groupby(task)["version"].transform("first")
    table = table[table["version"] == first]
    why = "are worded differently; the first wording is kept"
    differing("question", "query_id", "benchmark", why)
    draw = table.groupby(["path", "query_id"]).cumcount() + 1
    table = table.assign(
        question=table.groupby("query_id")["question"].transform("first"),
        query_id=table["query_id"] + ("#" + draw.astype(str)).where(draw > 1, ""),
    )
    label = ["query_id", "model"]
    why = "are right in one run and wrong in another; left empty. Leave one run out"
    disagree = differing("is_correct", label, "model", why)
    table["is_correct"] = table["is_correct"].mask(disagree)
    table = table.groupby(label, sort=False)[COLUMNS].first().reset_index(drop=True)
    n_queries = table.groupby("benchmark")["query_id"].nunique()
    for (task, model), n in table.groupby(["benchmark", "model"])["is_correct"].count().items():
        if n < n_queries[task]:
            report.append(f"{task}: {model} has no label on {n_queries[task] - n} queries.")
    return table
