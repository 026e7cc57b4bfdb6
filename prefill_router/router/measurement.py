"""What a router says of queries, how good that is, and what it keeps of that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from prefill_router.errors import InputError
from prefill_router.evaluation.bootstrap import few
from prefill_router.evaluation.comparison import compare_choices, compare_probabilities
from prefill_router.evaluation.results import records
from prefill_router.evaluation.tuning import choose_parameter
from prefill_router.labels import Labels
from prefill_router.labels.costs import MILLION, Prices, query_costs
from prefill_router.labels.splits import Split
from prefill_router.recipe import Fitted
from prefill_router.recipe.cost_prediction import CostModel
from prefill_router.recipe.predictor import Predictor
from prefill_router.router.config import FORMAT, RouterConfig
from prefill_router.router.files import tensors_digest
from prefill_router.router.guarantee import certify
from prefill_router.router.routing import Rule, Tuned, make_rule
from prefill_router.router.tensors import to_tensors

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations
    from prefill_router.extraction.templates import Query


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


def rules_of(tuned: Tuned) -> dict[str, Rule]:
    """Return the policies that are evaluated, by name; ``"certified"`` is what a router does."""
    rules = {
        "argmax": make_rule("argmax", tuned=tuned),
        "tolerance": make_rule("tolerance", tuned=tuned, tau=tuned.tau),
        "certified": make_rule("tolerance", tuned=tuned),
    }
    return rules if tuned.cost is None else rules | {"utility": make_rule("utility", tuned=tuned)}


def evaluate(
    tuned: Tuned,
    seen: Predictions,
    split: str,
    n_resamples: int = 2000,
    seed: int = 0,
    encoder_cost: np.ndarray | None = None,
) -> pd.DataFrame:
    """Evaluate a router's policies and probabilities on labels it was not fitted to.

    Parameters
    ----------
    tuned : Tuned
    seen : Predictions
        Of labelled queries.
    split, n_resamples, seed, encoder_cost
        As in `prefill_router.evaluation.comparison.compare_choices`.

    Returns
    -------
    pandas.DataFrame
        Results: those of `compare_choices` for each of `rules_of`, and those of
        `compare_probabilities` for ``"calibrated"`` and ``"uncalibrated"``.
    """
    labels = seen.labels
    known = {"targets": labels.targets, "split": split, "seed": seed}
    choices = compare_choices(
        {name: rule.choose(seen.p, seen.expected) for name, rule in rules_of(tuned).items()},
        labels.correct, seen.paid, labels.targets.index(tuned.guarantee.best_single), labels.group,
        encoder_cost=encoder_cost, n_resamples=n_resamples, **known,
    )  # fmt: skip
    probabilities = compare_probabilities(
        {"calibrated": seen.p, "uncalibrated": seen.raw},
        labels.correct, labels.group, n_resamples=few(n_resamples), **known,
    )  # fmt: skip
    return pd.concat([choices, probabilities], ignore_index=True)


def finish(
    fitted: Fitted,
    labels: Labels,
    states: Activations,
    split: Split,
    prices: Prices | None,
    *,
    max_loss: float,
    confidence: float,
    encoder_price: float | None,
    n_resamples: int,
) -> tuple[RouterConfig, dict[str, np.ndarray]]:
    """Return what a router says of itself, and its tensors.

    Policies are chosen on validation rows, the guarantee and all results come from test rows.
    Parameters as for `prefill_router.router.Router.fit`.
    """
    predictor, costs, seed = fitted.predictor, fitted.costs, fitted.recipe.seed
    n_tokens = None if costs is None else states.full_tokens
    said = predict(predictor, costs, predictor.read(states), n_tokens, labels.question.tolist())
    paid = None if costs is None else query_costs(labels, prices, said.inputs)
    said = replace(said, paid=paid, labels=labels)
    held, tested = said.take(split.validation), said.take(split.test)
    accuracy = labels.take(split.train).summary()["accuracy"].to_numpy()
    best = int(np.nanargmax(accuracy))
    known = held.p, held.labels.correct, held.costs
    if costs is None:
        tau, lam = choose_parameter(*known), 0.0
    else:
        tau, lam = (choose_parameter(*known, name, best) for name in ("tolerance", "utility"))
    promise = certify(
        tested.p, tested.labels.correct, tested.costs, best, tested.labels.group,
        targets=labels.targets, max_loss=max_loss, confidence=confidence,
    )  # fmt: skip
    tuned = Tuned(
        labels.targets, held.p, held.expected, held.labels.correct, tau, lam, accuracy, promise
    )
    if encoder_price is None and prices is not None and states.encoder is not None:
        encoder_price = prices.input.get(states.encoder.name)
    encoder_cost = None
    if encoder_price is not None and costs is not None:
        encoder_cost = tested.n_tokens * encoder_price / MILLION
    metrics = evaluate(tuned, tested, "test", n_resamples, seed, encoder_cost)
    used = np.unique(digests(labels.question[np.concatenate([split.train, split.validation])]))
    tensors = to_tensors(fitted, held.p, held.expected, held.labels.correct, used)
    places = zip(predictor.places, predictor.projection, strict=True)
    config = RouterConfig(
        format=FORMAT,
        package=version("prefill-router"),
        targets=list(labels.targets),
        encoder=states.encoder,
        head=predictor.head,
        places=[
            {"layer": layer, "pooling": pooling, "components": weights.shape[1]}
            for (_, layer, pooling), weights in places
        ],
        calibration=predictor.calibration.families,
        prices=_price_records(fitted, labels, prices),
        as_of=prices.as_of if prices is not None else "",
        tau=tau,
        lam=lam,
        accuracy=[None if np.isnan(a) else float(a) for a in accuracy],
        guarantee=promise,
        metrics=records(metrics),
        data={
            "fingerprint": labels.fingerprint,
            "queries": labels.n_queries,
            "groups": len(np.unique(labels.group)),
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
            "benchmarks": sorted(set(labels.benchmark.tolist())),
            "seed": seed,
        },
        tensors=tensors_digest(tensors),
    )
    return config, tensors


def _price_records(fitted: Fitted, labels: Labels, prices: Prices | None) -> list[dict] | None:
    if fitted.costs is None:
        return None
    rows = []
    for k, target in enumerate(labels.targets):
        by_cost = fitted.costs.output_price[k] == 1
        own = fitted.costs.tokenizers.get(k)
        rows.append(
            {
                "input": None if by_cost else prices.input[target],
                "output": None if by_cost else prices.output[target],
                "tokenizer": own and hashlib.sha256(own.to_str().encode()).hexdigest(),
            }
        )
    return rows
