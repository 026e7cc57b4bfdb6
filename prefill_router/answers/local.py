"""Labels of one local model: it answers every question here, and its answers are graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from prefill_router import __version__
from prefill_router.answers.generation import GREEDY, Decoding, generate
from prefill_router.answers.grading import Grader, exact_match, grade
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import ModelSource, weights_hash
from prefill_router.extraction.templates import check_questions
from prefill_router.progress import track
from prefill_router.storage import Store, fingerprint, read_json, write_json


def collect(
    source: ModelSource,
    questions: Sequence[str],
    references: Sequence[str],
    grader: Grader = exact_match,
    decoding: Decoding = GREEDY,
    *,
    batch_size: int = 256,
    chunk_size: int = 2048,
    device: str = "cpu",
    work: str | Path | None = None,
) -> pd.DataFrame:
    """Ask one model every question and grade its answers.

    Parameters
    ----------
    source : ModelSource
        From `prefill_router.extraction.sources.resolve`.
    questions, references : sequences of str, length N
        What is asked, and what is right.
    grader : callable, default `exact_match`
        From answer and reference to whether the answer is right.
    decoding : Decoding
        How answers are generated.
    batch_size : int, default 256
        Prompts at a time.
    chunk_size : int, default 2048
        Questions between two visits to the disk.
    device : str, default "cpu"
        As for `prefill_router.extraction.models.pick_device`.
    work : path-like, optional
        Directory that keeps finished chunks, so that an interrupted run goes on where it stopped.
        They are addressed by the model's files, the questions and `decoding`; the grader is
        applied anew each time.

    Returns
    -------
    DataFrame
        Columns ``answer``, ``is_correct`` (0 or 1) and ``output_tokens``, N rows in order.

    Raises
    ------
    InputError
        If there are not as many references as questions, there is no question or one is not text,
        or the grader fails. Otherwise as for `prefill_router.answers.generation.generate` and
        `prefill_router.extraction.models.load_target`.
    """
    if len(questions) != len(references):
        raise InputError(f"{len(questions)} questions, but {len(references)} references.")
    questions = check_questions(questions)
    settings = {"weights": weights_hash(source), "prefill_router": __version__, **asdict(decoding)}
    settings["batch_size"] = batch_size if decoding.temperature else None  # decides who draws what
    loaded: list[tuple[Any, Any]] = []  # once, and only if some chunk is not on disk

    def ask(chunk: list[str], key: dict[str, Any]) -> dict[str, list]:
        if not loaded:
            loaded.append(load_target(source, device, decoding.dtype))
        # models and chunks that drew from one random stream would err together
        own_seed = replace(decoding, seed=int(fingerprint(key), 16) >> 1)
        answers, n_tokens = generate(*loaded[0], chunk, own_seed, batch_size)
        return {"answer": answers, "output_tokens": n_tokens.tolist()}

    def finished(chunk: list[str], key: dict[str, Any]) -> dict[str, list]:
        def build(directory: Path) -> None:
            write_json(directory / "answers.json", ask(chunk, key))

        return read_json(Store(work).get("answers", key, build, stage="answers") / "answers.json")

    parts = []
    for start in track(range(0, len(questions), chunk_size), f"Asking {source.name}"):
        chunk = questions[start : start + chunk_size]
        key = {"questions": fingerprint(chunk), **settings}
        parts.append(ask(chunk, key) if work is None else finished(chunk, key))
    frame = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    graded = [
        grade(grader, *row) for row in zip(questions, frame["answer"], references, strict=True)
    ]
    return frame.assign(is_correct=graded)[["answer", "is_correct", "output_tokens"]]
