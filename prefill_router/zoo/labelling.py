"""The zoo's labels: targets answer questions of the skills benchmark, and are graded.

The committed labels are greedy answers to all questions; the committed samples are ten answers at
temperature 1 to the validation and test questions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prefill_router import zoo
from prefill_router.answers.collect import collect_labels
from prefill_router.answers.generation import Decoding, ask_model
from prefill_router.answers.grading import exact_match
from prefill_router.errors import InputError
from prefill_router.extraction.sources import n_parameters, resolve, weights_hash
from prefill_router.labels import Labels, load_labels
from prefill_router.labels.tables import write_table
from prefill_router.storage import Store, file_hash, read_json, write_json
from prefill_router.zoo.recipes import TARGETS, write_card
from prefill_router.zoo.skills import PER_CELL, benchmark

DECODING = Decoding(max_new_tokens=96)
N_DRAWS = 10
# Temperature 1: each answer is drawn with the probability that the model itself gives it.
SAMPLING = replace(DECODING, temperature=1.0)
# The one price of the zoo: USD per million tokens, in or out, and million parameters.
USD_PER_MILLION_TOKENS_AND_PARAMETERS = 0.1


def target_names() -> list[str]:
    """Return the names of the zoo's targets, ``zoo/NAME``."""
    return [f"zoo/{name}" for name in TARGETS]


def fresh_labels(store: Store, device: str = "cpu") -> Path:
    """Ask every target every question again and return the label table's path.

    Answers already given by the same weights to the same questions are kept in `store`.
    """
    path = store.root / "fresh_labels.parquet"
    collect_labels(target_names(), benchmark(), path, decoding=DECODING, device=device)
    return path


def ask_again(
    labels: Labels,
    rows: np.ndarray,
    device: str = "cpu",
    decoding: Decoding = DECODING,
    store: Store | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ask every target some of the questions again.

    Parameters
    ----------
    labels : Labels
        Labels of the zoo, or of some of its targets.
    rows : ndarray of int, shape (n,)
        Which questions.
    device : str
        Torch device that answers.
    decoding : Decoding
        How; by default greedily, as for the committed labels.
    store : Store, optional
        Keeps answers, so that an interrupted call goes on where it stopped.

    Returns
    -------
    answers : ndarray of object, shape (n, K)
        What each target wrote.
    correct : ndarray of float64, shape (n, K)
        Its grade, 1 or 0.
    """
    asked = labels.take(rows)
    references = benchmark().set_index("query_id").loc[asked.query_id, "reference"].tolist()
    questions, work = asked.question.tolist(), store and store.root
    answers, correct = np.empty(asked.correct.shape, dtype=object), np.empty(asked.correct.shape)
    for k, target in enumerate(labels.targets):
        replies = ask_model(resolve(target), questions, decoding, device=device, work=work)
        answers[:, k] = [reply.text for reply in replies]
        correct[:, k] = list(map(exact_match, answers[:, k], references))
    return answers, correct


def load_samples(labels: Labels, rows: np.ndarray) -> np.ndarray:
    """Return the committed samples of some of the zoo's validation and test questions.

    Parameters
    ----------
    labels : Labels
        Labels of the zoo, or of some of its targets.
    rows : ndarray of int, shape (n,)
        Which questions.

    Returns
    -------
    ndarray of bool, shape (N_DRAWS, n, K)
        Whether each answer was right.

    Raises
    ------
    InputError
        If the file does not match its manifest, or a question or target was not sampled.
    """
    manifest = _manifest(zoo.SAMPLES)
    if read_json(manifest)["samples"] != file_hash(zoo.SAMPLES):
        raise InputError(f"{zoo.SAMPLES} does not match {manifest.name}: restore both.")
    table = pd.read_parquet(zoo.SAMPLES).set_index(["query_id", "model"])
    wanted = pd.MultiIndex.from_product([labels.query_id[rows], labels.targets])
    if len(unknown := wanted.difference(table.index)):
        query, target = unknown[0]
        raise InputError(f"{zoo.SAMPLES.name} has no answers of {target!r} to {query!r}.")
    drawn = table.loc[wanted].to_numpy(bool)
    return drawn.reshape(len(rows), labels.n_targets, -1).transpose(2, 0, 1)


def write_default_labels(store: Store, device: str = "cpu") -> None:
    """Make the committed label table, its manifest, the price table and the targets' cards."""
    table = pd.read_parquet(fresh_labels(store, device))
    write_table(table, zoo.LABELS)
    _write_manifest(zoo.LABELS, DECODING)
    millions = [n_parameters(resolve(name)) / 1e6 for name in target_names()]
    price = np.round(USD_PER_MILLION_TOKENS_AND_PARAMETERS * np.array(millions), 7)
    prices = {"model": target_names(), "usd_per_m_input": price, "usd_per_m_output": price}
    origin = {"as_of": "2026-11", "status": "constant times parameters"}
    write_table(pd.DataFrame(prices | origin), zoo.PRICES)
    by_split = table.groupby(["model", "split"])[["is_correct", "output_tokens"]]
    scores = by_split.mean().rename(columns={"is_correct": "accuracy"}).assign(n=by_split.size())
    for name in target_names():
        write_card(resolve(name).location, scores.loc[name].loc[list(PER_CELL)])


def write_default_samples(store: Store, device: str = "cpu") -> None:
    """Make the committed samples of the validation and test questions, and their manifest."""
    labels = load_labels(zoo.LABELS).select_targets(target_names())
    rows = np.flatnonzero(labels.split != "train")
    seeded = [replace(SAMPLING, seed=draw) for draw in range(N_DRAWS)]
    right = np.array([ask_again(labels, rows, device, d, store)[1] for d in seeded], dtype=bool)
    index = pd.MultiIndex.from_product(
        [labels.query_id[rows], labels.targets], names=["query_id", "model"]
    )
    draws = [f"draw_{draw}" for draw in range(N_DRAWS)]
    table = pd.DataFrame(right.reshape(N_DRAWS, -1).T, index, draws)
    write_table(table.reset_index(), zoo.SAMPLES)
    _write_manifest(zoo.SAMPLES, SAMPLING, seeds=list(range(N_DRAWS)))


def _manifest(path: Path) -> Path:
    return path.with_suffix(".manifest.json")


def _write_manifest(path: Path, decoding: Decoding, **more: Any) -> None:
    """Record the hashes of the file at `path`, of the labels and weights, and the decoding."""
    settings = {"max_new_tokens": decoding.max_new_tokens, "temperature": decoding.temperature}
    weights = {name: weights_hash(resolve(name)) for name in target_names()}
    hashes = {path.stem: file_hash(path), "labels": file_hash(zoo.LABELS), "weights": weights}
    write_json(_manifest(path), hashes | {"decoding": settings | more})
