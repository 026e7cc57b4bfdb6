"""How good a router is, and what it keeps of its labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from prefill_router.evaluation.bootstrap import few
from prefill_router.evaluation.comparison import compare_choices, compare_probabilities
from prefill_router.evaluation.results import records
from prefill_router.evaluation.tuning import choose_parameter
from prefill_router.labels import Labels
from prefill_router.labels.costs import MILLION, Prices, query_costs
from prefill_router.labels.splits import Split
from prefill_router.recipe import Fitted
from prefill_router.router.contents import FORMAT, RouterConfig, to_tensors
from prefill_router.router.files import tensors_digest
from prefill_router.router.guarantee import certify
from prefill_router.router.predictions import Predictions, predict
from prefill_router.router.routing import Held, Rule, make_rule

if TYPE_CHECKING:
    from prefill_router.extraction.activations import Activations


def digests(questions: Iterable[str]) -> np.ndarray:
    """Return eight bytes of each question's SHA-256, uint64 (n,); outer white space is no part.

    Of a million questions and a million others, two are taken for one with probability 5e-8.
    """
    texts = (text.strip().encode("utf-8", "surrogatepass") for text in questions)
    heads = b"".join(hashlib.sha256(text).digest()[:8] for text in texts)
    return np.frombuffer(heads, dtype="<u8").astype(np.uint64)


def rules_of(config: RouterConfig, held: Held) -> dict[str, Rule]:
    """Return the policies that are evaluated, by name; ``"certified"`` is what a router does."""
    rules = {
        "argmax": make_rule(config, held, "argmax"),
        "tolerance": make_rule(config, held, "tolerance", tau=config.tau),
        "certified": make_rule(config, held, "tolerance"),
    }
    return rules if held.cost is None else rules | {"utility": make_rule(config, held, "utility")}


def evaluate(
    config: RouterConfig,
    held: Held,
    seen: Predictions,
    split: str,
    n_resamples: int = 2000,
    seed: int = 0,
    encoder_cost: np.ndarray | None = None,
) -> pd.DataFrame:
    """Evaluate a router's policies and probabilities on labels it was not fitted to.

    Parameters
    ----------
    config : RouterConfig
    held : Held
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
    correct, group, rules = seen.labels.correct, seen.labels.group, rules_of(config, held)
    known = {"targets": config.pool, "split": split, "seed": seed}
    choices = compare_choices(
        {name: rule.choose(seen.p, seen.expected) for name, rule in rules.items()},
        correct, seen.paid, config.pool.index(config.guarantee.best_single), group,
        encoder_cost=encoder_cost, n_resamples=n_resamples, **known,
    )  # fmt: skip
    probabilities = compare_probabilities(
        {"calibrated": seen.p, "uncalibrated": seen.raw},
        correct, group, n_resamples=few(n_resamples), **known,
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
    tuning, tested = said.take(split.validation), said.take(split.test)
    held = Held(tuning.p, tuning.expected, tuning.labels.correct)
    accuracy = labels.take(split.train).summary()["accuracy"].to_numpy()
    best = int(np.nanargmax(accuracy))
    tau, lam = choose_parameter(held.p, held.correct, tuning.costs), 0.0
    if costs is not None:
        tau, lam = (
            choose_parameter(held.p, held.correct, held.cost, policy, best)
            for policy in ("tolerance", "utility")
        )
    used = np.unique(digests(labels.question[np.concatenate([split.train, split.validation])]))
    tensors = to_tensors(fitted, held.p, held.cost, held.correct, used)
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
        guarantee=certify(
            tested.p, tested.labels.correct, tested.costs, best, tested.labels.group,
            targets=labels.targets, max_loss=max_loss, confidence=confidence,
        ),
        metrics=[],
        data={
            "fingerprint": labels.fingerprint,
            "queries": labels.n_queries,
            "groups": len(np.unique(labels.group)),
            **{name: len(getattr(split, name)) for name in ("train", "validation", "test")},
            "benchmarks": sorted(set(labels.benchmark.tolist())),
            "seed": seed,
        },
        tensors=tensors_digest(tensors),
    )  # fmt: skip
    if encoder_price is None and prices is not None and states.encoder is not None:
        encoder_price = prices.input.get(states.encoder.name)
    encoder_cost = None
    if encoder_price is not None and costs is not None:
        encoder_cost = tested.n_tokens * encoder_price / MILLION
    metrics = evaluate(config, held, tested, "test", n_resamples, seed, encoder_cost)
    return config.model_copy(update={"metrics": records(metrics)}), tensors


def _price_records(fitted: Fitted, labels: Labels, prices: Prices | None) -> list[dict] | None:
    if fitted.costs is None:
        return None
    rows = []
    for k, target in enumerate(labels.targets):
        by_cost, own = fitted.costs.output_price[k] == 1, fitted.costs.tokenizers.get(k)
        row = {
            side: None if by_cost else getattr(prices, side)[target] for side in ("input", "output")
        }
        rows.append(row | {"tokenizer": own and hashlib.sha256(own.to_str().encode()).hexdigest()})
    return rows
