"""The numbers of a router as named tensors, and the one table of what each must be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tokenizers import Tokenizer

from prefill_router.errors import InputError
from prefill_router.labels.costs import MILLION
from prefill_router.recipe import Fitted
from prefill_router.recipe.calibration import ISOTONIC, Calibration
from prefill_router.recipe.cost_prediction import CostModel, LengthModel
from prefill_router.recipe.predictor import Predictor
from prefill_router.router.config import RouterConfig

UNKNOWN = -1  # a missing label, in int8
LAYOUT = {
    "centre": ("float32", "places", "width"),
    "projection": ("float32", "width", "features"),
    "calibration": ("float64", "targets", 3),
    "validation.p": ("float64", "validation", "targets"),
    "validation.correct": ("int8", "validation", "targets"),
    "seen": ("uint64", "questions"),
}
"""Type and axes of each tensor. A named axis is as long in every tensor that has it."""
PRICED = {
    "validation.cost": ("float64", "validation", "targets"),
    "lengths.slopes": ("float64", "features", "targets"),
    "lengths.intercepts": ("float64", "targets"),
    "lengths.smearing": ("float64", "targets"),
    "lengths.bounds": ("float64", 2, "targets"),
}
LINEAR = {
    "logistic": {
        "head.coef": ("float64", "targets", "features"),
        "head.intercept": ("float64", "targets"),
    },
    "ridge": {
        "head.coef": ("float64", "features", "targets + 1"),
        "head.intercept": ("float64", "targets + 1"),
    },
}


def layout(config: RouterConfig, n_layers: int) -> dict[str, tuple]:
    """Return type and axes of every tensor of a router whose network has `n_layers`, by name."""
    expected = LAYOUT | (PRICED if config.prices is not None else {})
    expected |= {
        f"calibration.{k}": ("float64", 2, f"steps of {k}")
        for k, family in enumerate(config.calibration)
        if family == ISOTONIC
    }
    if config.head in LINEAR:
        return expected | LINEAR[config.head]
    widths = ["features", *(f"units of layer {i}" for i in range(1, n_layers)), "targets"]
    for i in range(n_layers):
        expected[f"head.weight.{i}"] = ("float32", "networks", widths[i], widths[i + 1])
        expected[f"head.bias.{i}"] = ("float32", "networks", 1, widths[i + 1])
    return expected | {"head.labelled": ("bool", "targets")}


def check_tensors(config: RouterConfig, tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Raise InputError if names, types, shapes or values are not what a router has."""
    n_layers = max(1, sum(name.startswith("head.weight.") for name in tensors))
    expected = layout(config, n_layers)
    if odd := sorted(set(tensors) ^ set(expected)):
        has = "lacks" if odd[0] in expected else "has an unexpected"
        raise InputError(f"{where} {has} tensor {odd[0][:100]!r}.")
    lengths = {
        "places": len(config.places),
        "features": sum(place.components for place in config.places),
        "targets": len(config.targets),
        "targets + 1": len(config.targets) + 1,
    }
    for name, (dtype, *axes) in expected.items():
        tensor = tensors[name]
        if tensor.ndim == len(axes):
            pairs = zip(axes, tensor.shape, strict=True)
            axes = [a if isinstance(a, int) else lengths.setdefault(a, n) for a, n in pairs]
        if tensor.dtype != dtype or list(tensor.shape) != axes:
            raise InputError(
                f"{where}: {name} is {tensor.dtype} {tensor.shape}; it must be {dtype} "
                f"({', '.join(map(str, axes))})."
            )
        if not np.isfinite(tensor).all() or tensor.size == 0:
            raise InputError(f"{where}: {name} holds values that are no finite numbers, or none.")


def to_tensors(
    fitted: Fitted, p: np.ndarray, cost: np.ndarray | None, correct: np.ndarray, seen: np.ndarray
) -> dict[str, np.ndarray]:
    """Return all numbers of a router.

    Parameters
    ----------
    fitted : Fitted
    p, correct : ndarray of shape (n, K)
        Calibrated P(correct) and labels of its validation queries.
    cost : ndarray of shape (n, K) or None
        Their expected costs.
    seen : ndarray of uint64
        `prefill_router.router.measurement.digests` of the questions that it was fitted to.
    """
    predictor, priced = fitted.predictor, fitted.costs is not None
    parts = {
        "calibration": predictor.calibration.steps,
        "head": predictor.tensors,
        "validation": {"cost": cost} if priced else {},
        "lengths": vars(fitted.costs.lengths) if priced else {},
    }
    return {
        "centre": np.stack(predictor.centre),
        "projection": np.hstack(predictor.projection),
        "calibration": predictor.calibration.coefficients,
        "validation.p": p,
        "validation.correct": np.nan_to_num(correct, nan=UNKNOWN).astype(np.int8),
        "seen": seen,
    } | {f"{part}.{name}": t for part, held in parts.items() for name, t in held.items()}


def predictor_of(config: RouterConfig, tensors: Mapping[str, np.ndarray]) -> Predictor:
    """Return what a router predicts by, from checked tensors."""
    ends = np.cumsum([place.components for place in config.places])[:-1]
    steps = {int(k): values for k, values in _part(tensors, "calibration.").items()}
    return Predictor(
        places=[("", place.layer, place.pooling) for place in config.places],
        centre=list(tensors["centre"]),
        projection=[np.ascontiguousarray(w) for w in np.split(tensors["projection"], ends, 1)],
        head=config.head,
        tensors=_part(tensors, "head."),
        calibration=Calibration(list(config.calibration), tensors["calibration"], steps),
    )


def costs_of(
    config: RouterConfig, tensors: Mapping[str, np.ndarray], tokenizers: Mapping[int, Tokenizer]
) -> CostModel | None:
    """Return what a router expects costs by, from checked tensors; None without prices."""
    if config.prices is None:
        return None
    by_cost = np.array([price.input is None for price in config.prices])
    prices = np.array([(price.input or 0, price.output or 0) for price in config.prices]).T
    rates = prices[0] / MILLION, np.where(by_cost, 1, prices[1] / MILLION)
    return CostModel(LengthModel(**_part(tensors, "lengths.")), *rates, dict(tokenizers))


def labels_of(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the labels of validation queries, float64 (n, K); NaN never asked."""
    correct = tensors["validation.correct"].astype(np.float64)
    return np.where(correct == UNKNOWN, np.nan, correct)


def _part(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
