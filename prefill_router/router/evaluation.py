"""What a router says of labelled queries beside what came of them, and how good it is by that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import few
from prefill_router.evaluation.comparison import compare_choices, compare_probabilities
from prefill_router.extraction.templates import Query
from prefill_router.labels import Labels
from prefill_router.recipe.cost_prediction import CostModel
from prefill_router.recipe.predictor import Predictor
from prefill_router.router.routing import Rule, Tuned, make_rule


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a router says of N queries; of labelled ones, beside what came of them.

    Attributes
    ----------
    n_tokens : ndarray of shape (N,) or None
        Tokens of each prompt, as the encoder counts them; None where that does not matter.
    raw, p : ndarray of shape (N, K)
        P(correct) before and after calibration.
    inputs : ndarray of shape (N, K) or None
        Input tokens, as each target counts them.
    expected, paid : ndarray of shape (N, K) or None
        Costs in USD as expected beforehand, and as they turned out; None where none are known.
    labels : Labels or None
        Of the router's targets, in its order.
    """

    n_tokens: np.ndarray | None
    raw: np.ndarray
    p: np.ndarray
    inputs: np.ndarray | None = None
    expected: np.ndarray | None = None
    paid: np.ndarray | None = None
    labels: Labels | None = None

    @property
    def costs(self) -> np.ndarray:
        """Costs as policies weigh them: `expected`, or 0 where none are known."""
        return np.zeros(self.p.shape) if self.expected is None else self.expected

    def take(self, rows: np.ndarray) -> Predictions:
        """Return those of some of the labelled queries."""
        arrays = {k: v[rows] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **arrays, labels=self.labels.take(rows))


def evaluate(
    tuned: Tuned, seen: Predictions, split: str, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Evaluate a router's policies and probabilities on labels it was not fitted to.

    Parameters
    ----------
    tuned : Tuned
    seen : Predictions
        Of labelled queries.
    split, n_resamples, seed
        As in `prefill_router.evaluation.comparison.compare_choices`.

    Returns
    -------
    pandas.DataFrame
        Results: those of `compare_choices` for each of `rules_of`, and those of
        `compare_probabilities` for ``"calibrated"`` and ``"uncalibrated"``.
    """
    labels = seen.labels
    rules = rules_of(tuned, labels.targets)
    settings = {"targets": labels.targets, "split": split, "seed": seed}
    choices = compare_choices(
        {name: rule.choose(seen.p, seen.expected) for name, rule in rules.items()},
        labels.correct,
        seen.paid,
        labels.targets.index(tuned.guarantee.best_single),
        labels.group,
        n_resamples=n_resamples,
        **settings,
    )
    probabilities = compare_probabilities(
        {"calibrated": seen.p, "uncalibrated": seen.raw},
        labels.correct,
        labels.group,
        n_resamples=few(n_resamples),
        **settings,
    )
    return pd.concat([choices, probabilities], ignore_index=True)


def rules_of(tuned: Tuned, targets: tuple[str, ...]) -> dict[str, Rule]:
    """Return the policies that are evaluated, by name; ``"certified"`` is what a router does."""
    rules = {
        "argmax": make_rule("argmax", tuned, targets),
        "tolerance": make_rule("tolerance", tuned, targets, tau=tuned.tau),
        "certified": make_rule("tolerance", tuned, targets),
    }
    return rules | ({} if tuned.cost is None else {"utility": make_rule("utility", tuned, targets)})


def predict(
    predictor: Predictor,
    costs: CostModel | None,
    states: Iterable[np.ndarray],
    n_tokens: np.ndarray | None,
    queries: Sequence[Query] | None,
) -> Predictions:
    """Return what is said of queries by their states (N, D) at each of the predictor's places."""
    features = predictor.features(states)
    raw = predictor.raw(features)
    p = predictor.calibration.apply(raw)
    if costs is None:
        return Predictions(None, raw, p)
    if queries is None and costs.tokenizers:
        raise InputError(
            "Some targets' own tokenizers count their input: give queries, not states alone."
        )
    inputs = costs.input_tokens(queries, n_tokens)
    return Predictions(n_tokens, raw, p, inputs, costs.expected(features, inputs))


def digests(questions: Iterable[str]) -> np.ndarray:
    """Return eight bytes of each question's SHA-256, uint64 (n,); outer white space is no part.

    Of a million questions and a million others, two are taken for one with probability 5e-8.
    """
    texts = (text.strip().encode("utf-8", "surrogatepass") for text in questions)
    heads = b"".join(hashlib.sha256(text).digest()[:8] for text in texts)
    return np.frombuffer(heads, dtype="<u8").astype(np.uint64)
