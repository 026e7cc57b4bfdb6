"""Labels by asking: let causal language models answer, grade what they say, count its tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig

from prefill_router import __version__
from prefill_router.errors import InputError
from prefill_router.models import (
    ModelSource,
    input_device,
    load_target,
    pad_id,
    resolve,
    weights_hash,
)
from prefill_router.progress import track
from prefill_router.prompts import Prompts, check_questions, token_limit
from prefill_router.storage import Store, fingerprint, read_json, write_json
from prefill_router.tables import write_table

Grader = Callable[[str, str], bool]
NEEDED = ("query_id", "question", "benchmark", "reference")
PASSED_ON = ("group", "split")
FORMATS = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True)
class Decoding:
    """How answers are generated; everything here changes what is said.

    Attributes
    ----------
    max_new_tokens : int
        Where an answer is cut off.
    temperature : float
        0 takes the likeliest token at each step; above 0 samples from the whole distribution.
    seed : int
        For sampling.
    dtype : str
        Type the model computes in.
    template_kwargs : dict or None
        Passed to the chat template.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    dtype: str = "float32"
    template_kwargs: dict[str, Any] | None = None

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; it must be 0 or positive.")


def normalise(text: str) -> str:
    """Return text with case, white space, Unicode forms and a closing full stop made alike."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).removesuffix(".").rstrip()


def exact_match(answer: str, reference: str) -> bool:
    """Say whether an answer is the reference, after normalising both.

    Of a text that shows its working, only what follows the last ``answer:`` counts.
    """
    said = re.split(r"answer\s*:", answer, flags=re.IGNORECASE)[-1]
    return normalise(said) == normalise(reference)


def generate(
    model,
    tokenizer,
    questions: Sequence[str],
    decoding: Decoding = Decoding(),
    batch_size: int = 256,
) -> tuple[list[str], np.ndarray]:
    """Let a causal language model answer.

    Parameters
    ----------
    model, tokenizer
        From `prefill_router.models.load_target`.
    questions : sequence of str, length N
        Each becomes one prompt, as in `prefill_router.prompts.format_prompts`.
    decoding : Decoding
        How. The model's own generation settings give the end-of-text tokens and nothing else.
    batch_size : int, default 256
        Prompts at a time, of similar length.

    Returns
    -------
    answers : list of N str
        Without special tokens.
    n_tokens : int64 ndarray of shape (N,)
        Tokens generated, the end-of-text token included, padding not.

    Raises
    ------
    InputError
        If the model has no end-of-text token, or a prompt leaves no room for an answer.

    Notes
    -----
    Prompts are padded on the left and the attention mask is given, so that an answer does not
    depend on the prompts it shares a batch with (beyond rounding). Sampling is seeded and leaves
    the global generator as it was.
    """
    ends = _end_tokens(model, tokenizer)
    room = max(1, token_limit(model, tokenizer) - decoding.max_new_tokens)
    prompts = Prompts(tokenizer, room, template_kwargs=decoding.template_kwargs)
    prompts.count(questions)
    ids = prompts.ids(questions)
    sampling = {"do_sample": False}
    if decoding.temperature:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad_id(tokenizer),
        **sampling,
    )
    order = np.argsort([len(tokens) for tokens in ids], kind="stable")
    answers = [""] * len(ids)
    n_tokens = np.zeros(len(ids), dtype=np.int64)
    with _settings(model, config), torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(decoding.seed)
        for start in range(0, len(ids), batch_size):
            rows = order[start : start + batch_size]
            new = _continue(model, [ids[row] for row in rows], config).tolist()
            for row, tokens in zip(rows, new, strict=True):
                stop = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
                n_tokens[row] = stop
                answers[row] = tokenizer.decode(
                    tokens[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
    return answers, n_tokens


def _continue(model, ids: list[list[int]], config: GenerationConfig) -> torch.Tensor:
    """Return the new tokens, (B, T'), that follow prompts padded on the left."""
    width = max(map(len, ids))
    tokens = torch.tensor([[config.pad_token_id] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    device = input_device(model)
    output = model.generate(
        tokens.to(device), attention_mask=mask.to(device), generation_config=config
    )
    return output[:, width:]


def _end_tokens(model, tokenizer) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    if ends is None:
        raise InputError(
            "The model has no end-of-text token, so its answers would never end: set eos_token_id "
            "in its generation_config.json."
        )
    return list(ends) if isinstance(ends, (list, tuple)) else [ends]


@contextmanager
def _settings(model, config: GenerationConfig) -> Iterator[None]:
    """Replace the model's own generation settings, which would fill in what `config` leaves out."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def collect(
    source: ModelSource,
    questions: Sequence[str],
    references: Sequence[str],
    grader: Grader = exact_match,
    decoding: Decoding = Decoding(),
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
        From `prefill_router.models.resolve`.
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
        As for `prefill_router.models.pick_device`.
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
        As for `generate` and `prefill_router.models.load_target`.
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

        return read_json(Store(work).get("answers", key, build) / "answers.json")

    parts = []
    for start in track(range(0, len(questions), chunk_size), f"Asking {source.name}"):
        chunk = questions[start : start + chunk_size]
        key = {"questions": fingerprint(chunk), **settings}
        parts.append(ask(chunk, key) if work is None else finished(chunk, key))
    frame = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    graded = [
        int(grader(answer, reference))
        for answer, reference in zip(frame["answer"], references, strict=True)
    ]
    return frame.assign(is_correct=graded)[["answer", "is_correct", "output_tokens"]]


def collect_labels(
    targets: Sequence[str],
    queries: pd.DataFrame,
    out: str | Path,
    grader: Grader = exact_match,
    decoding: Decoding = Decoding(),
    **settings: Any,
) -> pd.DataFrame:
    """Ask every target every query and write the label table.

    Parameters
    ----------
    targets : sequence of str
        Names for `prefill_router.models.resolve`; they fill the column ``model``.
    queries : DataFrame
        Columns ``query_id``, ``question``, ``benchmark``, ``reference``; ``group`` and ``split``
        are passed on.
    out : path-like
        A ``.parquet``, ``.csv`` or ``.csv.gz`` file. Finished chunks are kept beside it, in the
        directory ``<out>.parts``, and make a rerun go on where it stopped; delete it when done.
    grader, decoding
        As for `collect`.
    **settings
        ``batch_size``, ``chunk_size`` and ``device``, as for `collect`.

    Returns
    -------
    DataFrame
        The long table: query_id, question, benchmark, model, is_correct, output_tokens and what is
        passed on; a row for each target and query.

    Raises
    ------
    InputError
        If a column is missing, a query_id occurs twice, a target is named twice, or the format of
        `out` is unknown; otherwise as for `collect`.
    """
    out = Path(out)
    _check_request(targets, queries, out)
    sources = [resolve(target) for target in targets]  # all, before hours go into the first
    columns = ["query_id", "question", "benchmark"]
    passed_on = [column for column in PASSED_ON if column in queries]
    tables = []
    for source in sources:
        answers = collect(
            source,
            queries["question"].tolist(),
            queries["reference"].tolist(),
            grader,
            decoding,
            work=out.with_name(out.name + ".parts"),
            **settings,
        )
        table = queries[columns].reset_index(drop=True).assign(model=source.name)
        table[["is_correct", "output_tokens"]] = answers[["is_correct", "output_tokens"]]
        table[passed_on] = queries[passed_on].reset_index(drop=True)
        tables.append(table)
    labels = pd.concat(tables, ignore_index=True)
    write_table(labels, out)
    return labels


def _check_request(targets: Sequence[str], queries: pd.DataFrame, out: Path) -> None:
    missing = [column for column in NEEDED if column not in queries]
    if missing:
        raise InputError(f"queries lack the column {missing[0]}; there are {list(queries)}.")
    repeated = queries["query_id"][queries["query_id"].duplicated()]
    if len(repeated):
        raise InputError(f"query_id {repeated.iloc[0]!r} occurs more than once in queries.")
    if not targets or len(set(targets)) < len(targets):
        raise InputError(f"targets {list(targets)} must be one or more different models.")
    if not out.name.endswith(FORMATS):
        raise InputError(f"{out} must end in {', '.join(FORMATS)}.")
