"""MMLU-Pro: what models answered after five worked examples, in TIGER-AI-Lab/MMLU-Pro.

An answer is right if its letter is the reference. Without a letter it is wrong (the repository
draws one at random).
"""

from __future__ import annotations

import json
import re
import string
import sys
import zipfile
from pathlib import Path
from typing import Any

from prefill_router.labels.sources.pools import Pool, count_tokens

FILES = "eval_results/model_outputs_*_5shots*.zip"
NAME = re.compile(r"model_outputs_(.+)_5shots.*")
LETTERS = (r"answer is \(?([A-J])\)?", r"[aA]nswer:\s*([A-J])", r"(?s)\A.*\b([A-J])\b")
"""The repository's rules for the letter of an answer; the first that fits counts."""


def letter(answer: str) -> str | None:
    """Return the letter that an answer names."""
    found = (match[1] for rule in LETTERS if (match := re.search(rule, answer)))
    return next(found, None)


def _records(path: Path) -> list[Any]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json")]
        return [record for name in names for record in json.loads(archive.read(name))]


def _row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    options = zip(string.ascii_uppercase, record["options"], strict=False)
    stem = record["question"].strip()
    lines = [stem, *(f"{name}. {option}" for name, option in options)]
    answer = record.get("generated_text", record.get("model_outputs")) or ""
    return {
        "query_id": f"mmlu_pro-{record['question_id']:05d}",
        "question": sys.intern("\n".join(lines)),  # one text in memory for all files
        "benchmark": "mmlu_pro_" + record["category"].replace(" ", "_"),
        "model": re.sub(r"(?<=\d)_(?=\d)", ".", NAME.fullmatch(path.name)[1]),
        "is_correct": letter(answer) == record["answer"],
        "output_tokens": count_tokens(answer),
        "stem": sys.intern(stem),
        "reference": record["answer"],
    }


POOL = Pool((FILES,), _records, _row)
