"""What a router computes with, and the tensors that it is saved as."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from prefill_router.labels.costs import MILLION
from prefill_router.recipe.calibration import ISOTONIC, Calibration
from prefill_router.recipe.cost_prediction import CostModel, LengthModel
from prefill_router.router.config import RouterConfig
from prefill_router.router.guarantee import Guarantee
from prefill_router.router.heads import Heads
from prefill_router.router.routing import Tuned

UNKNOWN = -1  # a missing label, in int8


@dataclass(frozen=True)
class Parts:
    """The fitted parts of a router.

    Attributes
    ----------
    heads : Heads
        From states to probabilities.
    costs : CostModel or None
        From states to expected costs, where prices are known.
    tuned : Tuned
        What policies need to know.
    seen : ndarray of uint64
        `seen_questions.digests` of the questions that any of it, or of the heads of targets added
        since, was fitted to or chosen on.
    """

    heads: Heads
    costs: CostModel | None
    tuned: Tuned
    seen: np.ndarray


def to_tensors(parts: Parts) -> dict[str, np.ndarray]:
    """Return all numbers of a router as the tensors of `tensor_layout`."""
    heads, tuned = parts.heads, parts.tuned
    tensors = {
        "centre": heads.centre,
        "projection": heads.projection,
        "calibration.coefficients": heads.calibration.coefficients,
        "validation.p": tuned.p,
        "validation.correct": np.nan_to_num(tuned.correct, nan=UNKNOWN).astype(np.int8),
        "seen": parts.seen,
    }
    tensors |= {f"weight.{i}": weight for i, weight in enumerate(heads.weights)}
    tensors |= {f"bias.{i}": bias for i, bias in enumerate(heads.biases)}
    steps = heads.calibration.steps
    tensors |= {f"calibration.steps.{k}": values for k, values in steps.items()}
    if parts.costs is not None:
        lengths = parts.costs.lengths
        tensors |= {
            "validation.cost": tuned.cost,
            "lengths.slopes": lengths.slopes,
            "lengths.intercepts": lengths.intercepts,
            "lengths.smearing": lengths.smearing,
            "lengths.bounds": lengths.bounds,
        }
    return tensors


def tensor_layout(config: RouterConfig) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Return the type and shape of every tensor that a router has, by name; None is any length."""
    n_places, n_targets, shapes = len(config.places), len(config.targets), config.shapes
    n_inputs = n_places * shapes.components
    layout = {
        "centre": ("float32", (n_places, 1, shapes.width)),
        "projection": ("float32", (n_places, shapes.width, shapes.components)),
        "calibration.coefficients": ("float64", (n_targets, 3)),
        "validation.p": ("float64", (shapes.validation, n_targets)),
        "validation.correct": ("int8", (shapes.validation, n_targets)),
        "seen": ("uint64", (shapes.seen,)),
    }
    widths = [n_inputs, *shapes.hidden, n_targets]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layout[f"weight.{i}"] = ("float32", (shapes.networks, inputs, outputs))
        layout[f"bias.{i}"] = ("float32", (shapes.networks, 1, outputs))
    for k, family in enumerate(config.calibration):
        if family == "isotonic":
            layout[f"calibration.steps.{k}"] = ("float64", (2, None))
    if config.prices is not None:
        layout["validation.cost"] = ("float64", (shapes.validation, n_targets))
        layout["lengths.slopes"] = ("float64", (n_inputs, n_targets))
        layout["lengths.bounds"] = ("float64", (2, n_targets))
        for name in ("intercepts", "smearing"):
            layout[f"lengths.{name}"] = ("float64", (n_targets,))
    return layout


def from_tensors(
    config: RouterConfig, tensors: dict[str, np.ndarray], tokenizers: dict[int, Tokenizer]
) -> Parts:
    """Return the parts that a config and checked tensors describe."""
    steps = {
        k: tensors[f"calibration.steps.{k}"]
        for k, family in enumerate(config.calibration)
        if family == ISOTONIC
    }
    n_layers = len(config.shapes.hidden) + 1
    heads = Heads(
        places=[(place.layer, place.pooling) for place in config.places],
        centre=tensors["centre"],
        projection=tensors["projection"],
        weights=[tensors[f"weight.{i}"] for i in range(n_layers)],
        biases=[tensors[f"bias.{i}"] for i in range(n_layers)],
        labelled=np.array(config.labelled),
        calibration=Calibration(
            list(config.calibration), tensors["calibration.coefficients"], steps
        ),
    )
    correct = tensors["validation.correct"].astype(np.float64)
    tuned = Tuned(
        p=tensors["validation.p"],
        cost=tensors.get("validation.cost"),
        correct=np.where(correct == UNKNOWN, np.nan, correct),
        lam=config.lam,
        accuracy=np.array([np.nan if a is None else a for a in config.accuracy]),
        guarantee=Guarantee(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in config.guarantee.model_dump().items()
            }
        ),
    )
    return Parts(heads, _costs(config, tensors, tokenizers), tuned, tensors["seen"])


def _costs(
    config: RouterConfig, tensors: dict[str, np.ndarray], tokenizers: dict[int, Tokenizer]
) -> CostModel | None:
    if config.prices is None:
        return None
    lengths = LengthModel(
        *(tensors[f"lengths.{name}"] for name in ("slopes", "intercepts", "smearing", "bounds"))
    )
    in_usd = np.array([price.predicted == "cost_usd" for price in config.prices])
    prices = np.array([(price.input or 0, price.output or 0) for price in config.prices]).T
    return CostModel(
        lengths,
        np.where(in_usd, 0, prices[0] / MILLION),
        np.where(in_usd, 1, prices[1] / MILLION),
        tokenizers,
    )
