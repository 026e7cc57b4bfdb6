"""Logs of Inspect, read by Inspect itself."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pandas as pd

from prefill_router.errors import InputError
from prefill_router.labels import normalise
from prefill_router.storage import fingerprint

NAME = re.compile(r".+\.eval|\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d.*_.*\.json")
"""How Inspect names its logs."""


def read(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a finished log. Each epoch is a draw; choices follow the input, as A. B. and so on.

    Parameters
    ----------
    path : pathlib.Path
        ``.eval`` or ``.json``.

    Returns
    -------
    table : DataFrame
        The columns of a long label table but `is_correct`, and the task's `version`.
    scores : DataFrame
        A column per scorer, or ``SCORER,KEY`` where one gives several scores; empty where a sample
        failed or was invalidated.

    Raises
    ------
    InputError
        If Inspect is not installed, the log is damaged, unfinished or empty.
    """
    try:
        from inspect_ai.log import read_eval_log

        log = read_eval_log(str(path))
    except ImportError as error:
        raise InputError(f"{path}: install its reader: pip install inspect-ai") from error
    except Exception as error:  # of a zip archive, of JSON, of the schema
        raise InputError(
            f"{path} is damaged or no log of Inspect; restore it or leave it out. {error!s:.300}"
        ) from error
    if log.status != "success" or log.invalidated:
        raise InputError(
            f"{path} has not finished or is invalidated (status: {log.status}); finish it with "
            "`inspect eval-retry`, and leave this log out."
        )
    if not log.samples:
        raise InputError(f"{path} holds no samples; run its task again, with log_samples.")
    task, model, rows, scores = log.eval.task, log.eval.model, [], []
    for sample in sorted(log.samples, key=lambda sample: sample.epoch):
        given = sample.input if isinstance(sample.input, list) else [sample.input]
        lines = [getattr(message, "text", message) for message in given]
        choices = zip(string.ascii_uppercase, sample.choices or [], strict=False)
        text = "\n".join([*lines, *(f"{letter}. {choice}" for letter, choice in choices)])
        key, usage = fingerprint(normalise(text), sample.target), sample.model_usage.get(model)
        rows.append([f"{task}/{key}", text, usage.output_tokens if usage else float("nan")])
        failed = sample.error or sample.invalidation
        graded = {} if failed else sample.scores or {}
        scores.append({name: score.value for name, score in graded.items()})
    table = pd.DataFrame(rows, columns=["query_id", "question", "output_tokens"])
    table = table.assign(benchmark=task, model=model, version=str(log.eval.task_version))
    return table, pd.json_normalize(scores, sep=",")
