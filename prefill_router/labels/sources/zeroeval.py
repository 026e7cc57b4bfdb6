"""ZeroEval: what models answered, in WildEval/ZeroEval, ``result_dirs/``, by the rules there."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from prefill_router.labels.sources.pools import Pool, count_tokens
from prefill_router.storage import read_json

TASKS = {"crux": "question", "gsm": "question", "math-l5": "problem"}
"""CRUX, GSM8K and MATH level 5, with what their files call a question."""
SAME_MODEL = {"gemma-2-27b-it@together": "gemma-2-27b-it"}
"""Files of one model under two names, joined as in the repository's summaries."""
ANSWERS = (
    r'"answer"\s*:\s*"([^"]*)"',
    r'"answer"\s*:\s*([^,\s]*)',
    r"answer\s*:\s*([^,\s]*)",
    r"\\boxed{(\w+)}",
)
"""Rules for an answer outside JSON; the first that fits counts."""


def answer_of(text: str) -> str:
    """Return the answer in a text: of its first JSON object, or by the first rule that fits."""
    flat = text.replace("\n", "")
    try:
        return str(json.JSONDecoder().raw_decode(flat, flat.find("{"))[0]["answer"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return next((found[1] for rule in ANSWERS if (found := re.search(rule, text))), "")


def is_right(answer: str, reference: str, task: str) -> bool:
    """Return whether they are equal: as code in CRUX, else by their first number."""
    if task == "crux":
        return answer.strip("'\"").replace("\n", "\\n") == reference.strip("'\"")
    return _number(answer) == _number(reference.replace("#", "")) is not None


def _number(text: str) -> float | None:
    text = text.replace("$", "").replace(",", "").strip()
    if re.fullmatch(r"-?\d+/[1-9]\d*", text):
        return float(Fraction(text))
    found = re.search(r"-?\d+(\.\d+)?", text)
    return float(found[0]) if found else None


def _row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    task, text, reference = path.parent.name, record["output"][0], str(record["answer"])
    question = sys.intern(record[TASKS[task]])  # one text in memory for all files
    return {
        "query_id": f"{task}-{int(str(record['id']).rpartition('#')[2]):04d}",
        "question": question,
        "benchmark": task,
        "model": SAME_MODEL.get(path.stem, path.stem),
        "is_correct": is_right(answer_of(text), reference, task),
        "output_tokens": count_tokens(text),
        "stem": question,
        "reference": reference,
    }


POOL = Pool(tuple(f"result_dirs/{task}/*.json" for task in TASKS), read_json, _row)
