"""From a fitted recipe to a router: policies settled, the guarantee certified, all of it tested."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pandas as pd

from prefill_router.evaluation.results import records
from prefill_router.evaluation.tuning import choose_parameter
from prefill_router.extraction.activations import Activations
from prefill_router.labels import Labels
from prefill_router.labels.costs import MILLION, Prices, expected_costs, query_costs
from prefill_router.labels.splits import Split
from prefill_router.recipe import Fitted
from prefill_router.router.config import FORMAT, RouterConfig
from prefill_router.router.cost_comparison import MEAN, MEDIAN, PREDICTED, TRUE, compare_costs
from prefill_router.router.evaluation import Predictions, digests, evaluate, predict
from prefill_router.router.files import tensors_digest
from prefill_router.router.guarantee import certify
from prefill_router.router.routing import Tuned
from prefill_router.router.tensors import to_tensors


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
    seed: int,
) -> tuple[RouterConfig, dict[str, np.ndarray]]:
    """Return what a router says of itself, and its tensors.

    Policies are chosen on validation rows, the guarantee and all results come from test rows.
    Parameters as for `prefill_router.router.Router.fit`.
    """
    predictor, costs = fitted.predictor, fitted.costs
    n_tokens = None if costs is None else states.full_tokens
    read = predictor.read(states)
    said = predict(predictor, costs, read, n_tokens, labels.question.tolist())
    paid = None if costs is None else query_costs(labels, prices, said.inputs)
    said = replace(said, paid=paid, labels=labels)
    held, tested = said.take(split.validation), said.take(split.test)
    accuracy = labels.take(split.train).summary()["accuracy"].to_numpy()
    best = int(np.nanargmax(accuracy))
    tau, lam = _tune(held, best)
    promise = certify(
        tested.p, tested.labels.correct, tested.costs, best, tested.labels.group,
        targets=labels.targets, max_loss=max_loss, confidence=confidence,
    )  # fmt: skip
    tuned = Tuned(held.p, held.expected, held.labels.correct, tau, lam, accuracy, promise)
    metrics = [evaluate(tuned, tested, "test", n_resamples, seed)]
    if costs is not None:
        median, mean = (
            expected_costs(labels, prices, said.inputs, split.train, typical)[split.test]
            for typical in (np.median, np.mean)
        )
        ways = {PREDICTED: tested.expected, MEDIAN: median, MEAN: mean, TRUE: tested.paid}
        if encoder_price is None and prices is not None and states.encoder is not None:
            encoder_price = prices.input.get(states.encoder.name)
        price = None if encoder_price is None else n_tokens[split.test] * encoder_price / MILLION
        metrics.append(
            compare_costs(
                tested.p, tested.labels.correct, tested.paid, ways, best, tested.labels.group,
                targets=labels.targets, encoder_cost=price, n_resamples=min(1000, n_resamples),
                seed=seed,
            )
        )  # fmt: skip
    used = np.concatenate([split.train, split.validation])
    validation = {"p": held.p, "correct": held.labels.correct}
    validation |= {} if costs is None else {"cost": held.expected}
    tensors = to_tensors(predictor, costs, validation, np.unique(digests(labels.question[used])))
    config = RouterConfig(
        format=FORMAT,
        package=version("prefill-router"),
        targets=list(labels.targets),
        encoder=states.encoder,
        head=predictor.head,
        places=[
            {"layer": layer, "pooling": pooling, "components": weights.shape[1]}
            for (_, layer, pooling), weights in zip(
                predictor.places, predictor.projection, strict=True
            )
        ],
        calibration=predictor.calibration.families,
        prices=_price_records(fitted, labels, prices),
        as_of=prices.as_of if prices is not None else "",
        tau=tau,
        lam=lam,
        accuracy=[None if np.isnan(a) else float(a) for a in accuracy],
        guarantee=promise,
        metrics=records(pd.concat(metrics)),
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


def _tune(held: Predictions, best: int) -> tuple[float, float]:
    """Choose tau and lambda on validation rows."""
    known = held.p, held.labels.correct, held.costs
    if held.expected is None:
        return choose_parameter(*known), 0.0
    return tuple(choose_parameter(*known, name, best) for name in ("tolerance", "utility"))


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
