"""How good a router is, and what it keeps of its labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from prefill_router.evaluation.tuning import choose_parameter
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.labels.costs import Prices
from prefill_router.labels.splits import Split
from prefill_router.recipe import Fitted
from prefill_router.recipe.cost_prediction import CostModel
from prefill_router.router.contents import FORMAT, UNKNOWN, PriceTable, RouterConfig, prefixed
from prefill_router.router.files import tensors_digest
from prefill_router.router.guarantee import certify
from prefill_router.router.predictions import Predictions

if TYPE_CHECKING:
    from prefill_router.router import Router


def digests(questions: Iterable[str]) -> np.ndarray:
    """Return eight bytes of each question's SHA-256, uint64 (n,); outer white space is no part.

    Of a million questions and a million others, two are taken for one with probability 5e-8.
    """
    texts = (text.strip().encode("utf-8", "surrogatepass") for text in questions)
    heads = b"".join(hashlib.sha256(text).digest()[:8] for text in texts)
    return np.frombuffer(heads, dtype="<u8").astype(np.uint64)


def evaluate(
    router: Router, seen: Predictions, encoder_cost: np.ndarray | None = None, **settings: Any
) -> pd.DataFrame:
    """Evaluate a router's policies and probabilities on labels it was not fitted to.

    Parameters
    ----------
    router : Router
    seen : Predictions
        Of labelled queries.
    encoder_cost, **settings
        As in `prefill_router.Evaluation`: `split`, `n_resamples` and `seed`.

    Returns
    -------
    pandas.DataFrame
        Results: of choices for each of the router's policies, and of probabilities for
        ``"calibrated"`` and ``"uncalibrated"``.
    """
    at = seen.evaluation(router.guarantee.best_single, seen.paid, **settings)
    p = {"calibrated": seen.p, "uncalibrated": seen.raw}
    found = [at.choices(router.choices(seen), encoder_cost=encoder_cost), at.probabilities(p)]
    return pd.concat(found, ignore_index=True)


def finish(
    fitted: Fitted,
    costs: CostModel | None,
    seen: Predictions,
    split: Split,
    prices: Prices | None,
    encoder: EncoderInfo | None,
    *,
    max_loss: float,
    confidence: float,
) -> tuple[RouterConfig, dict[str, np.ndarray]]:
    """Return what a router says of itself, but for its results, and its tensors.

    Policies are chosen on validation rows of `seen`, by what is predicted of each without its own
    labels; the guarantee comes from test rows.
    """
    predictor, labels = fitted.predictor, seen.labels
    tuning = replace(seen.take(split.validation), p=fitted.held)
    tested = seen.take(split.test)
    accuracy = labels.take(split.train).accuracy
    best = int(np.nanargmax(accuracy))
    known = tuning.p, tuning.labels.correct, tuning.costs
    tau, lam = choose_parameter(*known), 0.0
    if costs is not None:
        tau, lam = (choose_parameter(*known, name, best) for name in ("tolerance", "utility"))
    at = tested.evaluation(labels.targets[best], tested.costs)
    correct = np.nan_to_num(tuning.labels.correct, nan=UNKNOWN).astype(np.int8)
    tensors = {
        "centre": np.stack(predictor.centre),
        "projection": np.hstack(predictor.projection),
        "calibration": predictor.calibration.coefficients,
        **prefixed("calibration", predictor.calibration.steps),
        **prefixed("head", predictor.tensors),
        **prefixed("validation", {"p": tuning.p, "correct": correct}),
        "seen": np.unique(digests(labels.question[np.r_[split.train, split.validation]])),
    }
    if costs is not None:
        tensors |= {"validation.cost": tuning.expected, **prefixed("lengths", vars(costs.lengths))}
    read = zip(predictor.places, predictor.projection, strict=True)
    config = RouterConfig(
        format=FORMAT,
        package=version("prefill-router"),
        targets=list(labels.targets),
        encoder=encoder,
        head=predictor.head,
        places=[
            {"layer": layer, "pooling": pooling, "components": w.shape[1]}
            for (_, layer, pooling), w in read
        ],
        calibration=predictor.calibration.families,
        prices=costs and PriceTable.of(costs, labels.targets, prices),
        tokenizers={
            labels.targets[k]: hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
            for k, tokenizer in (costs.tokenizers if costs else {}).items()
        },
        tau=tau,
        lam=lam,
        accuracy=[None if np.isnan(share) else share for share in accuracy],
        guarantee=certify(at, tested.p, max_loss=max_loss, confidence=confidence),
        metrics=[],
        data={
            "fingerprint": labels.fingerprint,
            "queries": labels.n_queries,
            "groups": len(np.unique(labels.group)),
            **{name: len(getattr(split, name)) for name in ("train", "validation", "test")},
            "benchmarks": sorted(set(labels.benchmark.tolist())),
            "seed": fitted.recipe.seed,
        },
        tensors=tensors_digest(tensors),
    )
    return config, tensors
