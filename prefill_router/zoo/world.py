"""What the embedded world gives away: how far routers get that know one thing about a question."""

from __future__ import annotations

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.baselines.averages import BenchmarkAware, TrainingAccuracy
from prefill_router.baselines.classifiers import LengthOnly, TfidfLogistic
from prefill_router.errors import InputError
from prefill_router.labels import Labels
from prefill_router.metrics import gap_closed
from prefill_router.zoo.vocabulary import build_tokenizer


def world_report(labels: Labels, queries: pd.DataFrame) -> pd.DataFrame:
    """Measure what each way to know about a question is worth, on validation questions.

    Parameters
    ----------
    labels : Labels
        Labels of the zoo, with splits and none missing.
    queries : pandas.DataFrame
        The benchmark, `prefill_router.zoo.skills.benchmark`; other questions than the labels' are
        left out.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``router``: ``accuracy`` on validation when the target with the highest
        predicted probability is asked, and ``gap_closed``, the share of the way from the best
        single target of the training questions to the oracle. The first row is that target, the
        last the oracle.

    Raises
    ------
    InputError
        If the labels have no splits, or questions that the benchmark does not have.

    Notes
    -----
    Routers are fitted to training questions. Test questions play no part: the world was tuned by
    this report.
    """
    if labels.split is None:
        raise InputError("The labels have no column split; the world is measured on validation.")
    if unknown := sorted(set(labels.query_id) - set(queries["query_id"])):
        raise InputError(f"query {unknown[0]!r} of the labels is not in the benchmark.")
    queries = queries.set_index("query_id").loc[labels.query_id]
    train, validation = (np.flatnonzero(labels.split == s) for s in ("train", "validation"))
    correct = labels.correct[validation]

    accuracies = {}
    for name, (router, known) in _routers(labels, queries).items():
        router.fit(known[train], labels.correct[train])
        choice = policy.argmax(router.predict_proba(known[validation]))
        accuracies[name] = correct[np.arange(len(validation)), choice].mean()
    accuracies["oracle"] = correct.max(axis=1).mean()
    report = pd.DataFrame({"accuracy": accuracies}).rename_axis("router")
    best = accuracies["best single target"]
    report["gap_closed"] = gap_closed(report["accuracy"], best, accuracies["oracle"])
    return report


def _routers(labels: Labels, queries: pd.DataFrame) -> dict[str, tuple]:
    """Return, by name, an estimator and what it knows of each query."""
    questions = labels.question.astype(str)
    tokens = build_tokenizer()(questions.tolist(), add_special_tokens=False)["input_ids"]
    lengths = np.array([[len(t), len(q)] for t, q in zip(tokens, questions, strict=True)])
    family = queries["benchmark"].astype(str)
    level, half = queries["level"].astype(str), queries["half"].astype(str)
    classes = {
        "family": family,
        "family and level": family + " " + level,
        "true cut (family and half)": family + " " + half,
        "true cut and level": family + " " + level + " " + half,
    }
    return {
        "best single target": (TrainingAccuracy(), lengths),
        "length": (LengthOnly(), lengths),
        "words (TF-IDF)": (TfidfLogistic(), questions),
        **{name: (BenchmarkAware(), known.to_numpy(str)) for name, known in classes.items()},
    }
