"""From labels to a router: layers and networks on training rows, the rest on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prefill_router.evaluation.estimates import Estimate
from prefill_router.evaluation.tuning import choose_cheapest_policy, choose_policy
from prefill_router.extraction.activations import Activations
from prefill_router.extraction.devices import Device
from prefill_router.features.selection import Choice
from prefill_router.labels import Labels
from prefill_router.labels.costs import (
    MILLION,
    Prices,
    expected_costs,
    query_costs,
)
from prefill_router.labels.splits import Split
from prefill_router.recipe import Fitted, Recipe, fit_recipe
from prefill_router.recipe.cost_prediction import CostModel
from prefill_router.router.cost_comparison import (
    MEAN,
    MEDIAN,
    PREDICTED,
    TRUE,
    compare_expected_costs,
)
from prefill_router.router.evaluation import evaluate
from prefill_router.router.guarantee import certify
from prefill_router.router.heads import Heads
from prefill_router.router.parts import Parts
from prefill_router.router.routing import Tuned
from prefill_router.router.seen_questions import digests


@dataclass(frozen=True)
class Trained:
    """A router's parts, with what was chosen on the way.

    Attributes
    ----------
    parts : Parts
    choices : list of Choice
        Of each target, on training rows.
    tau : float
        The tolerance that is cheapest on validation rows among those as accurate there as the best
        single target; where costs are unknown, the most accurate.
    metrics : list of Estimate
        Of the test rows.
    """

    parts: Parts
    choices: list[Choice]
    tau: float
    metrics: list[Estimate]


def train(
    activations: Activations,
    labels: Labels,
    split: Split,
    prices: Prices | None,
    tokenizers: Mapping[int, object],
    *,
    device: Device,
    dimensions: Sequence[int],
    n_seeds: int,
    keep: int,
    max_loss: float,
    confidence: float,
    encoder_price: float | None,
    n_resamples: int,
    seed: int,
) -> Trained:
    """Fit and test a router; parameters and errors as for `prefill_router.router.Router.fit`."""
    groups, correct, held = labels.group, labels.correct, split.validation
    recipe = Recipe(dimensions=dimensions, n_seeds=n_seeds, keep=keep, seed=seed, device=device)
    fitted = fit_recipe(recipe, labels, activations, split, prices, tokenizers)
    heads, costs = padded(fitted)
    reduced = reduced_states(activations, heads)
    raw = heads.raw(reduced)
    p = heads.probabilities(reduced)
    inputs, expected = None, None
    if costs is not None:
        inputs = costs.input_tokens(labels.question.tolist(), activations.full_tokens)
        expected = costs.expected(reduced, inputs)
    accuracy = labels.take(split.train).summary()["accuracy"].to_numpy()
    best = int(np.nanargmax(accuracy))
    seen = np.zeros(p.shape[1:]) if expected is None else expected
    tau, lam = _tune(p[held], correct[held], None if expected is None else expected[held], best)
    test = split.test
    promise = certify(
        p[test],
        correct[test],
        seen if seen.ndim == 1 else seen[test],
        best,
        groups[test],
        targets=labels.targets,
        max_loss=max_loss,
        confidence=confidence,
    )
    tuned = Tuned(
        p[held], None if expected is None else expected[held], correct[held], lam, accuracy, promise
    )
    used = np.concatenate([split.train, split.validation])
    parts = Parts(heads, costs, tuned, digests(labels.question[used]))
    tested = labels.take(test)
    cost = None if costs is None else query_costs(labels, prices, inputs)[test]
    predicted = None if expected is None else expected[test]
    metrics = evaluate(
        parts, tested, tau, raw[test], p[test], predicted, cost, "test", n_resamples, seed
    )
    if costs is not None:
        median, mean = (
            expected_costs(labels, prices, inputs, split.train, typical)[test]
            for typical in (np.median, np.mean)
        )
        metrics += compare_expected_costs(
            p[test],
            tested.correct,
            cost,
            {PREDICTED: predicted, MEDIAN: median, MEAN: mean, TRUE: cost},
            best,
            tested.group,
            targets=labels.targets,
            encoder_cost=None
            if encoder_price is None
            else activations.full_tokens[test] * encoder_price / MILLION,
            n_resamples=min(1000, n_resamples),
            seed=seed,
        )
    return Trained(parts, fitted.choices, tau, metrics)


def padded(fitted: Fitted) -> tuple[Heads, CostModel | None]:
    """Return a trunk and its costs, the components of every place padded to as many columns."""
    it = fitted.predictor
    width = max(columns.shape[1] for columns in it.projection)
    at = np.concatenate([i * width + np.arange(w.shape[1]) for i, w in enumerate(it.projection)])

    def spread(values: np.ndarray) -> np.ndarray:
        wide = np.zeros(
            (*values.shape[:-2], len(it.places) * width, values.shape[-1]), values.dtype
        )
        wide[..., at, :] = values
        return wide

    projection = np.zeros((len(it.places), len(it.centre[0]), width), np.float32)
    for place, columns in enumerate(it.projection):
        projection[place, :, : columns.shape[1]] = columns
    n_layers = sum(name.startswith("weight.") for name in it.tensors)
    weights = [it.tensors[f"weight.{i}"] for i in range(n_layers)]
    heads = Heads(
        [(layer, pooling) for _, layer, pooling in it.places],
        np.stack(it.centre)[:, None],
        projection,
        [spread(weights[0]), *weights[1:]],
        [it.tensors[f"bias.{i}"] for i in range(n_layers)],
        it.tensors["labelled"],
        it.calibration,
    )
    if fitted.costs is None:
        return heads, None
    lengths = replace(fitted.costs.lengths, slopes=spread(fitted.costs.lengths.slopes))
    return heads, replace(fitted.costs, lengths=lengths)


def reduced_states(activations: Activations, heads: Heads) -> np.ndarray:
    """Return the components of all queries, (N, P * d); one place's states at a time in memory."""
    return np.hstack(
        [
            (activations.states(*place) - centre) @ projection
            for place, centre, projection in zip(
                heads.places, heads.centre, heads.projection, strict=True
            )
        ]
    )


def _tune(
    p: np.ndarray, correct: np.ndarray, expected: np.ndarray | None, best: int
) -> tuple[float, float]:
    """Choose tau and lambda on validation rows."""
    if expected is None:
        return choose_policy(p, correct, np.zeros(p.shape[1])).parameter, 0.0
    tau = choose_cheapest_policy(p, correct, expected, best).parameter
    return tau, choose_cheapest_policy(p, correct, expected, best, "utility").parameter
