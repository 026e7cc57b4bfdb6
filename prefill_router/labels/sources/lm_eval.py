"""Logs of EleutherAI's lm-evaluation-harness, written with ``--log_samples``."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from prefill_router.errors import InputError
from prefill_router.storage import read_json

NAME = re.compile(r"(samples_(?P<task>.+)|.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl?")
TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined)


def samples_of(path: Path) -> list[Path]:
    """Return the samples that a file holds, or that should stand beside a file of results."""
    name = NAME.fullmatch(path.name)
    if name and name["task"]:
        return [path]
    tasks = []
    with contextlib.suppress(InputError, AttributeError):  # `read` says what is wrong with the file
        tasks = read_json(path).get("configs", []) if name else []
    return [path.with_name(f"samples_{task}_{name['date']}.jsonl") for task in tasks]


def read(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read one model's samples of one task.

    A question is what the task's template makes of a document, or, where the task is code, the
    prompt that was sent.

    Parameters
    ----------
    path : pathlib.Path
        ``samples_TASK_DATE.jsonl``; results of the same date stand beside it.

    Returns
    -------
    table : DataFrame
        The columns of a long label table but `is_correct`, and the task's `version`; the harness
        logs no output tokens.
    scores : DataFrame
        A column ``METRIC,FILTER`` per metric of which more is better.

    Raises
    ------
    InputError
        If a file is missing, empty, cut short or no log.
    """
    task, date = NAME.fullmatch(path.name).group("task", "date")
    results = next(path.parent.glob(f"*_{date}.json"), None)
    if results is None:
        raise InputError(f"{path}: restore its run's results beside it, results_{date}.json.")
    if not path.exists():
        raise InputError(
            f"{path} is missing, but {results} names its task; restore it, or run the task again "
            "with --log_samples."
        )
    about, samples, scores = read_json(results), {}, {}
    try:
        larger, n = about["higher_is_better"][task], about["n-samples"][task]["effective"]
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                sample = json.loads(line)
                number, detail = sample["doc_id"], sample["filter"]
                samples[number] = sample
                kept = [name for name in sample["metrics"] if larger.get(name) is not False]
                found = {f"{name},{detail}": sample[name] for name in kept}
                scores[number] = scores.get(number, {}) | found
        template = about["configs"][task]["doc_to_text"]
        rows = [
            {"query_id": f"{task}/{s['doc_hash'][:16]}", "question": _question(s, template)}
            for s in samples.values()
        ]
        model, version = about["model_name"] or about["model_source"], about["versions"][task]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}, with {results.name}, is damaged or older than lm-evaluation-harness 0.4.9 "
            f"({error!r:.200}); restore it, or run the task again."
        ) from error
    if len(samples) != n:
        raise InputError(f"{path} holds {len(samples)} of {n} samples; run the task again.")
    table = pd.DataFrame(rows).assign(model=model, benchmark=task, version=str(version))
    return table.assign(output_tokens=float("nan")), pd.DataFrame([*scores.values()])


def _question(sample: dict[str, Any], template: str) -> str:
    prompt, text = str(sample["arguments"]["gen_args_0"]["arg_0"]), ""
    with contextlib.suppress(TemplateError, TypeError, ValueError):
        text = sample["doc"].get(template) or TEMPLATES.from_string(template).render(sample["doc"])
    is_code = text == template or str(text).isdigit()  # a digit is the number of a prompt
    return prompt if is_code else str(text) or prompt
