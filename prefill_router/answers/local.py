"""Answers of one local model to many questions, kept in chunks on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefill_router import __version__
from prefill_router.answers.generation import GREEDY, Decoding, generate
from prefill_router.answers.ledger import Reply
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import ModelSource, weights_hash
from prefill_router.extraction.templates import check_questions
from prefill_router.progress import track
from prefill_router.storage import Store, fingerprint, read_json, write_json


def ask_model(
    source: ModelSource,
    questions: Sequence[str],
    decoding: Decoding = GREEDY,
    *,
    batch_size: int = 256,
    chunk_size: int = 2048,
    device: str = "cpu",
    work: str | Path | None = None,
) -> list[Reply]:
    """Let one local model answer every question.

    Parameters
    ----------
    source : ModelSource
        From `prefill_router.extraction.sources.resolve`.
    questions : sequence of str, length N
        What is asked.
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
        They are addressed by the model's files, the questions and `decoding`.

    Returns
    -------
    list of N Reply
        In order, without counts of input tokens and costs.

    Raises
    ------
    InputError
        If there is no question or one is not text. Otherwise as for
        `prefill_router.answers.generation.generate` and
        `prefill_router.extraction.models.load_target`.
    """
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

    def ask_once(chunk: list[str], key: dict[str, Any]) -> dict[str, list]:
        if work is None:
            return ask(chunk, key)

        def build(directory: Path) -> None:
            write_json(directory / "answers.json", ask(chunk, key))

        return read_json(Store(work).get("answers", key, build, stage="answers") / "answers.json")

    replies = []
    for start in track(range(0, len(questions), chunk_size), f"Asking {source.name}"):
        chunk = questions[start : start + chunk_size]
        found = ask_once(chunk, {"questions": fingerprint(chunk), **settings})
        for text, n in zip(found["answer"], found["output_tokens"], strict=True):
            finish = "length" if n >= decoding.max_new_tokens else "stop"
            replies.append(Reply(text, None, n, finish, None))
    return replies
