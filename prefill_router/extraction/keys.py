"""What decides the states of an extraction: by it one is told from another, and found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from prefill_router.errors import InputError
from prefill_router.extraction.layout import Layout
from prefill_router.extraction.settings import Settings
from prefill_router.extraction.shards import check_storage
from prefill_router.extraction.sources import ModelSource, weights_hash
from prefill_router.extraction.templates import check_questions
from prefill_router.storage import fingerprint, versions


def make_key(
    source: ModelSource,
    questions: Sequence[str],
    *,
    storage_dtype: str = "float32",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Return all that decides the states, JSON-able.

    Parameters as for `prefill_router.extraction.streaming.extract`.
    """
    check_storage(storage_dtype)
    key = {
        **Settings(**settings).decisive(),
        "code": versions("extraction"),
        "weights": weights_hash(source),
        "questions": fingerprint(check_questions(questions)),
        "storage_dtype": storage_dtype,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,  # else other code may compute
        "transformers": version("transformers"),
    }
    return json.loads(json.dumps(key))  # as it is read again: a tuple becomes a list


def check_key(directory: Path, key: dict[str, Any]) -> None:
    """Raise InputError if a directory's extraction, finished or not, has another key."""
    found = Layout.load(directory).description["key"]
    differing = sorted(name for name in found | key if found.get(name) != key.get(name))
    if differing:
        raise InputError(
            f"{directory} holds activations of another kind (other {', '.join(differing)}); give "
            "another directory, or delete it."
        )


def question_digest(question: str) -> np.ndarray:
    """Return 16 bytes that identify a question, uint8 (16,)."""
    digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest()
    return np.frombuffer(digest[:16], dtype=np.uint8)
