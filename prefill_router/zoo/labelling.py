"""The zoo's labels: every target answers every question of the skills benchmark, and is graded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from prefill_router import zoo
from prefill_router.answers.collect import collect_labels
from prefill_router.answers.generation import Decoding
from prefill_router.answers.grading import exact_match
from prefill_router.answers.local import ask_model
from prefill_router.extraction.sources import n_parameters, resolve, weights_hash
from prefill_router.labels import Labels
from prefill_router.labels.tables import write_table
from prefill_router.storage import Store, file_hash, fingerprint, read_json, write_json
from prefill_router.zoo.cards import write_card
from prefill_router.zoo.recipes import RECIPES, TARGETS
from prefill_router.zoo.skills import PER_CELL, benchmark

DECODING = Decoding(max_new_tokens=96)
USD_PER_MILLION_TOKENS_AND_PARAMETERS = 0.1
"""The one price of the zoo: USD per million tokens, in or out, and million parameters."""


def target_names() -> list[str]:
    """Return the names of the zoo's targets, ``zoo/NAME``."""
    return [f"zoo/{name}" for name in TARGETS]


def fresh_labels(store: Store, device: str = "cpu") -> Path:
    """Ask every target of the zoo every question again and return the label table's path.

    Answers already given by the same weights to the same questions are kept in `store`.
    """
    queries = benchmark()
    key = {
        "weights": {name: weights_hash(resolve(name)) for name in target_names()},
        "questions": fingerprint(queries["question"].tolist(), queries["reference"].tolist()),
    }

    def build(directory: Path) -> None:
        parts = store.root / "answers.parquet"
        collected = collect_labels(target_names(), queries, parts, decoding=DECODING, device=device)
        write_table(collected.labels, directory / zoo.LABELS.name)

    return store.get("labels", key, build, stage="answers") / zoo.LABELS.name


def ask_again(
    labels: Labels, rows: np.ndarray, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Let every target of the zoo answer some of the questions anew.

    Parameters
    ----------
    labels : Labels
        Labels of the zoo.
    rows : ndarray of int, shape (n,)
        Which questions.
    device : str
        Torch device that answers.

    Returns
    -------
    answers : ndarray of object, shape (n, K)
        What each target wrote.
    correct : ndarray of float64, shape (n, K)
        Its grade, 1 or 0.
    """
    asked = labels.take(rows)
    references = benchmark().set_index("query_id").loc[asked.query_id, "reference"].tolist()
    questions = asked.question.tolist()
    answers = np.empty(asked.correct.shape, dtype=object)
    correct = np.empty(asked.correct.shape)
    for k, target in enumerate(labels.targets):
        replies = ask_model(resolve(target), questions, DECODING, device=device)
        answers[:, k] = [reply.text for reply in replies]
        correct[:, k] = list(map(exact_match, answers[:, k], references))
    return answers, correct


def agreement_with_fresh_answers(labels: Labels, n: int, seed: int, device: str) -> pd.DataFrame:
    """Let every target answer a sample of the questions again and compare with its labels.

    Parameters
    ----------
    labels : Labels
        Labels of the zoo.
    n : int
        Number of questions, drawn with `seed`.
    seed : int
        Seed of the sample.
    device : str
        Torch device that answers.

    Returns
    -------
    pandas.DataFrame
        Indexed by target: ``n`` and ``agreement``, the share of fresh grades that equal the label.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(labels.n_queries, min(n, labels.n_queries), replace=False))
    _, fresh = ask_again(labels, rows, device)
    shares = (fresh == labels.correct[rows]).mean(axis=0)
    table = pd.DataFrame({"n": len(rows), "agreement": shares}, index=list(labels.targets))
    return table.rename_axis("target")


def write_prices() -> None:
    """Write the price table: one constant times the number of parameters, for input and output."""
    rows = []
    for name in target_names():
        price = USD_PER_MILLION_TOKENS_AND_PARAMETERS * n_parameters(resolve(name)) / 1e6
        rows.append(
            {
                "model": name,
                "usd_per_m_input": round(price, 7),
                "usd_per_m_output": round(price, 7),
                "as_of": "2026-11",
                "status": "constant times parameters",
            }
        )
    write_table(pd.DataFrame(rows), zoo.PRICES)


def write_scores(table: pd.DataFrame) -> None:
    """Write the targets' model cards, with what each scores in a long label table."""
    for name in TARGETS:
        directory = resolve(f"zoo/{name}").location
        by_split = table[table["model"] == f"zoo/{name}"].groupby("split")
        scores = by_split.agg(
            n=("is_correct", "size"),
            accuracy=("is_correct", "mean"),
            output_tokens=("output_tokens", "mean"),
        )
        step = read_json(directory / "recipe.json")["step"]
        write_card(directory, RECIPES[name], step, scores.loc[list(PER_CELL)])


def write_default_labels(store: Store, device: str = "cpu") -> None:
    """Make the committed label table, its manifest, the price table and the targets' cards anew."""
    table = pd.read_parquet(fresh_labels(store, device))
    write_table(table, zoo.LABELS)
    write_prices()
    write_scores(table)
    manifest = {
        "labels": file_hash(zoo.LABELS),
        "weights": {name: weights_hash(resolve(name)) for name in target_names()},
        "decoding": {"max_new_tokens": DECODING.max_new_tokens, "temperature": 0.0},
    }
    write_json(zoo.LABELS.with_suffix(".manifest.json"), manifest)
