"""Answers of a local causal language model, generated in batches and kept in chunks on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from prefill_router import __version__
from prefill_router.answers.ledger import Reply
from prefill_router.answers.reading import THINKING
from prefill_router.answers.targets import Decoding
from prefill_router.errors import InputError
from prefill_router.extraction.models import input_device, load_target, pad_id
from prefill_router.extraction.prompts import Prompts, token_limit
from prefill_router.extraction.sources import ModelSource, weights_hash
from prefill_router.progress import track
from prefill_router.storage import Store, fingerprint, read_json, write_json

GREEDY = Decoding()
FILE = "answers.json"


def generate(
    model, tokenizer, questions: Sequence[str], decoding: Decoding = GREEDY, batch_size: int = 256
) -> tuple[list[str], np.ndarray]:
    """Let a causal language model answer.

    Parameters
    ----------
    model, tokenizer
        From `prefill_router.extraction.models.load_target`.
    questions : sequence of str, length N
        Each becomes one prompt, as in `prefill_router.extraction.prompts.format_prompts`.
    decoding : Decoding
        How. The model's own generation settings give the end-of-text tokens and nothing else.
    batch_size : int, default 256
        Prompts at a time, of similar length.

    Returns
    -------
    answers : list of N str
        Without special tokens, other than tags of thinking: graders must tell what is thought.
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
    own = model.generation_config  # would fill in what `config` leaves out
    ends = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    if ends is None:
        raise InputError(
            "The model has no end-of-text token, so its answers would never end: set eos_token_id "
            "in its generation_config.json."
        )
    ends = np.atleast_1d(ends).tolist()
    room = max(1, token_limit(model, tokenizer) - decoding.max_new_tokens)
    prompts = Prompts(tokenizer, room, template_kwargs=decoding.template_kwargs)
    prompts.count(questions)
    ids = prompts.ids(questions)
    config = {"max_new_tokens": decoding.max_new_tokens, "do_sample": bool(decoding.temperature)}
    config |= {"eos_token_id": ends, "pad_token_id": pad_id(tokenizer)}
    if decoding.temperature:
        config |= {"temperature": decoding.temperature, "top_k": 0}
    config = GenerationConfig(**config)
    order = np.argsort([len(tokens) for tokens in ids], kind="stable")
    answers, n_tokens = [""] * len(ids), np.zeros(len(ids), dtype=np.int64)
    special = [(i, token) for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    hidden = {i for i, token in special if not THINKING.search(token.content)}
    model.generation_config = config
    try:
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(decoding.seed)
            for start in range(0, len(ids), batch_size):
                rows = order[start : start + batch_size]
                new = _continue(model, [ids[row] for row in rows], config).tolist()
                for row, tokens in zip(rows, new, strict=True):
                    stops = (i + 1 for i, token in enumerate(tokens) if token in ends)
                    n_tokens[row] = next(stops, len(tokens))
                    said = [token for token in tokens[: n_tokens[row]] if token not in hidden]
                    answers[row] = tokenizer.decode(said, clean_up_tokenization_spaces=False)
    finally:
        model.generation_config = own
    return answers, n_tokens


def _continue(model, ids: list[list[int]], config: GenerationConfig) -> torch.Tensor:
    """Return the new tokens, (B, T'), that follow prompts padded on the left."""
    rows = [torch.tensor(row, device=input_device(model)) for row in ids]
    tokens = pad_sequence(rows, True, config.pad_token_id, "left")
    mask = pad_sequence(list(map(torch.ones_like, rows)), True, 0, "left")
    new = model.generate(tokens, attention_mask=mask, generation_config=config)
    return new[:, tokens.shape[1] :]


def ask_model(
    source: ModelSource,
    questions: Sequence[str],
    decoding: Decoding = GREEDY,
    *,
    batch_size: int = 256,
    chunk_size: int = 2048,
    device: str = "cpu",
    work: str | Path | None = None,
    kept: bool = False,
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
    kept : bool, default False
        Return what `work` keeps, and generate nothing.

    Returns
    -------
    list of N Reply
        In order, without counts of input tokens and costs.

    Raises
    ------
    InputError
        As for `generate` and `prefill_router.extraction.models.load_target`. If answers are not
        kept that must be.
    """
    settings = {"weights": weights_hash(source), "prefill_router": __version__, **asdict(decoding)}
    settings["batch_size"] = batch_size if decoding.temperature else None  # decides who draws what
    load = cache(lambda: load_target(source, device, decoding.dtype))  # if a chunk is not kept

    def ask(chunk: list[str], store: Store) -> Iterator[Reply]:
        key = {"questions": fingerprint(chunk), **settings}
        # models and chunks that drew from one random stream would err together
        own_seed = replace(decoding, seed=int(fingerprint(key), 16) >> 1)

        def build(directory: Path) -> None:
            if kept:
                raise InputError(f"{source.name}: {work} does not keep all its answers.")
            answers, n_tokens = generate(*load(), chunk, own_seed, batch_size)
            write_json(directory / FILE, {"answer": answers, "output_tokens": n_tokens.tolist()})

        found = read_json(store.get("answers", key, build, stage="answers") / FILE)
        for text, n in zip(found["answer"], found["output_tokens"], strict=True):
            yield Reply(text, None, n, "stop" if n < decoding.max_new_tokens else "length", None)

    starts = track(range(0, len(questions), chunk_size), f"Asking {source.name}")
    with nullcontext(work) if work else TemporaryDirectory() as directory:
        store = Store(directory)
        chunks = (questions[start : start + chunk_size] for start in starts)
        return [reply for chunk in chunks for reply in ask(chunk, store)]
