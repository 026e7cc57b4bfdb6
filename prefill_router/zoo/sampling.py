"""Sampled answers of the zoo's targets: how often each would be right if it were asked again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from prefill_router import zoo
from prefill_router.answers.grading import exact_match
from prefill_router.answers.local import ask_model
from prefill_router.errors import InputError
from prefill_router.extraction.sources import resolve, weights_hash
from prefill_router.labels import Labels, load_labels
from prefill_router.labels.tables import write_table
from prefill_router.storage import Store, file_hash, read_json, write_json
from prefill_router.zoo.labelling import DECODING, target_names
from prefill_router.zoo.skills import benchmark

N_DRAWS = 10
SAMPLING = replace(DECODING, temperature=1.0)
"""Temperature 1: what the model itself takes to be the chance of each answer."""
MANIFEST = zoo.SAMPLES.with_suffix(".manifest.json")


def draw_answers(
    labels: Labels,
    rows: np.ndarray,
    draws: range,
    device: str = "cpu",
    store: Store | None = None,
) -> np.ndarray:
    """Let every target of the zoo answer some of the questions at temperature 1, several times.

    Parameters
    ----------
    labels : Labels
        Labels of the zoo.
    rows : ndarray of int, shape (n,)
        Which questions.
    draws : range
        The seeds, one a draw: other seeds, other answers.
    device : str
        Torch device that answers.
    store : Store, optional
        Keeps what was answered, so that an interrupted call goes on where it stopped.

    Returns
    -------
    ndarray of bool, shape (len(draws), n, K)
        Whether each answer was right.
    """
    asked = labels.take(rows)
    references = benchmark().set_index("query_id").loc[asked.query_id, "reference"].tolist()
    questions, work = asked.question.tolist(), store and store.root
    right = np.empty((len(draws), len(rows), labels.n_targets), dtype=bool)
    for d, draw in enumerate(draws):
        decoding = replace(SAMPLING, seed=draw)
        for k, target in enumerate(labels.targets):
            replies = ask_model(resolve(target), questions, decoding, device=device, work=work)
            texts = [reply.text for reply in replies]
            right[d, :, k] = list(map(exact_match, texts, references))
    return right


def write_default_samples(store: Store, device: str = "cpu") -> None:
    """Make the committed samples, of the validation and test questions, and their manifest anew."""
    labels = load_labels(zoo.LABELS).select_targets(target_names())
    rows = np.flatnonzero(labels.split != "train")
    right = draw_answers(labels, rows, range(N_DRAWS), device, store)
    columns = {
        "query_id": np.repeat(labels.query_id[rows], labels.n_targets),
        "model": np.tile(np.array(labels.targets, dtype=object), len(rows)),
    }
    columns |= {f"draw_{d}": right[d].ravel() for d in range(N_DRAWS)}
    write_table(pd.DataFrame(columns), zoo.SAMPLES)
    manifest = {
        "samples": file_hash(zoo.SAMPLES),
        "labels": file_hash(zoo.LABELS),
        "weights": {name: weights_hash(resolve(name)) for name in labels.targets},
        "decoding": {
            "max_new_tokens": SAMPLING.max_new_tokens,
            "temperature": SAMPLING.temperature,
            "seeds": list(range(N_DRAWS)),
        },
    }
    write_json(MANIFEST, manifest)


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
        If the file is not that of its manifest or a question or target was not sampled.
    """
    if read_json(MANIFEST)["samples"] != file_hash(zoo.SAMPLES):
        raise InputError(f"{zoo.SAMPLES} is not what {MANIFEST.name} says: restore both.")
    table = pd.read_parquet(zoo.SAMPLES).set_index(["query_id", "model"])
    wanted = pd.MultiIndex.from_product([labels.query_id[rows], labels.targets])
    places = table.index.get_indexer(wanted)
    if (places < 0).any():
        query, target = wanted[int(np.argmax(places < 0))]
        raise InputError(f"{zoo.SAMPLES.name} has no answers of {target!r} to {query!r}.")
    return table.to_numpy(bool)[places].reshape(len(rows), labels.n_targets, -1).transpose(2, 0, 1)
