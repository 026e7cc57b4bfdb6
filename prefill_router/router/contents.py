"""What a saved router holds: the fields of ``router.json`` and named tensors, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from tokenizers import Tokenizer

from prefill_router.errors import InputError
from prefill_router.evaluation.results import results
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.labels.costs import MILLION, Prices
from prefill_router.recipe.calibration import FAMILIES, ISOTONIC, Calibration
from prefill_router.recipe.cost_prediction import CostModel, LengthModel
from prefill_router.recipe.heads import HEADS, Predictor
from prefill_router.router.guarantee import Guarantee, Share

FORMAT = 4

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Amount = Annotated[float, Field(ge=0)]
T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list; of a file full of faults the first one is said."""
Rows = Many[dict[str, str | int | float | None]]
"""Results, by column of `prefill_router.evaluation.results`; what does not apply is left out."""
Tensors = Mapping[str, np.ndarray]


class Part(BaseModel):
    """Strict: no unknown field, no number for a text, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PlaceRecord(Part):
    """A layer and pooling whose states are read, and how many components are taken of them."""

    layer: Annotated[int, Field(ge=0, le=10_000)]
    pooling: Name
    components: Count


class PriceTable(Part):
    """What targets charge, in USD per million tokens; labels gave the costs of those left out."""

    input: dict[Name, Amount]
    output: dict[Name, Amount]
    as_of: Annotated[str, StringConstraints(max_length=1000)]

    @classmethod
    def of(cls, costs: CostModel, targets: Sequence[str], prices: Prices | None) -> PriceTable:
        """Return the prices by which a model of these targets' costs was fitted."""
        prices = Prices({}, {}) if prices is None else prices
        by_tokens = [k for k, usd in zip(targets, costs.output_price, strict=True) if usd != 1]
        both = ({k: side[k] for k in by_tokens} for side in (prices.input, prices.output))
        return cls(**dict(zip(("input", "output"), both, strict=True)), as_of=prices.as_of)


class AddedRecord(Part):
    """A target added later: its head on the logits of the others, which were there at first.

    `accuracy` is that on its `n` labelled queries; `certified` says whether the guarantee covers
    it; `metrics` are what `added_targets.fit_added` measured.
    """

    name: Name
    intercept: float
    weights: Many[float]
    accuracy: Share
    n: Count
    certified: bool
    metrics: Rows


class DataRecord(Part):
    """The labels that it was made from."""

    fingerprint: Name
    queries: Count
    groups: Count
    train: Count
    validation: Count
    test: Count
    benchmarks: Many[str]
    seed: int


class RouterConfig(Part):
    """All of ``router.json``.

    `encoder` is None where the router was fitted to arrays, `prices` where costs are unknown;
    `tokenizers` has the SHA-256 of each ``tokenizer.json`` that counts a target's input; `tau` and
    `lam` were chosen on validation queries; `accuracy` is each target's on training queries, None
    where it has no label there; `tensors` is the SHA-256 of ``router.safetensors``.
    """

    format: Literal[FORMAT]
    package: Name
    targets: Annotated[list[Name], Field(min_length=2, fail_fast=True)]
    encoder: EncoderInfo | None
    head: Literal[tuple(HEADS)]
    places: Annotated[list[PlaceRecord], Field(min_length=1, fail_fast=True)]
    calibration: Many[Literal[FAMILIES]]
    prices: PriceTable | None
    tokenizers: dict[Name, Digest]
    tau: Share
    lam: Amount
    accuracy: Many[Share | None]
    guarantee: Guarantee
    metrics: Rows
    data: DataRecord
    tensors: Digest
    added: Many[AddedRecord] = []

    @property
    def pool(self) -> list[str]:
        """Names of all targets, those added since at the end."""
        return [*self.targets, *(record.name for record in self.added)]

    @property
    def certified(self) -> list[str]:
        """Names of the targets that the guarantee covers."""
        return [*self.targets, *(record.name for record in self.added if record.certified)]

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> RouterConfig:
        lists = [self.calibration, self.accuracy, *(record.weights for record in self.added)]
        if {len(values) for values in lists} != {len(self.targets)}:
            raise ValueError("calibration, accuracy and weights need one entry per target")
        if len(set(self.pool)) < len(self.pool):
            raise ValueError("a target is named twice")
        sides = [{*self.prices.input}, {*self.prices.output}] if self.prices else [set()]
        if sides[0] != sides[-1] or not sides[0] <= {*self.pool}:
            raise ValueError("a target needs both prices, or its costs; what is unknown is not 0")
        if not {*self.tokenizers} <= {*self.targets}:
            raise ValueError("a tokenizer is of no target")
        if self.guarantee.best_single not in self.targets:
            raise ValueError("guarantee.best_single is not among the targets")
        for part in (self, *self.added):
            results(part.metrics)
        return self


UNKNOWN = -1  # a missing label, in int8


def layout(config: RouterConfig, n_layers: int) -> dict[str, tuple]:
    """Return type and axes of every tensor of a router whose networks have `n_layers`, by name.

    A named axis is as long in every tensor that has it.
    """
    axes = {
        "centre": ("float32", "places", "width"),
        "projection": ("float32", "width", "features"),
        "calibration": ("float64", "targets", 3),
        "validation.p": ("float64", "validation", "pool"),
        "validation.correct": ("int8", "validation", "pool"),
        "seen": ("uint64", "questions"),
    }
    if config.prices is not None:
        axes |= {
            "validation.cost": ("float64", "validation", "pool"),
            "lengths.slopes": ("float64", "features", "pool"),
            "lengths.intercepts": ("float64", "pool"),
            "lengths.smearing": ("float64", "pool"),
            "lengths.bounds": ("float64", 2, "pool"),
        }
    for k, family in enumerate(config.calibration):
        if family == ISOTONIC:
            axes[f"calibration.{k}"] = ("float64", 2, f"steps of {k}")
    if config.head == "trunk":
        widths = ["features", *(f"units of layer {i}" for i in range(1, n_layers)), "targets"]
        for i in range(n_layers):
            axes[f"head.weight.{i}"] = ("float32", "networks", widths[i], widths[i + 1])
            axes[f"head.bias.{i}"] = ("float32", "networks", 1, widths[i + 1])
        return axes | {"head.labelled": ("bool", "targets")}
    outputs = "targets" if config.head == "logistic" else "targets + 1"
    coef = ("targets", "features") if config.head == "logistic" else ("features", outputs)
    return axes | {"head.coef": ("float64", *coef), "head.intercept": ("float64", outputs)}


def check_tensors(config: RouterConfig, tensors: Tensors, where: str) -> None:
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
        "pool": len(config.pool),
    } | {n: n for n in (1, 2, 3)}
    for name, (dtype, *axes) in expected.items():
        tensor = tensors[name]
        shape = tuple(lengths.setdefault(a, n) for a, n in zip(axes, tensor.shape, strict=False))
        if (tensor.dtype, tensor.ndim, tensor.shape) != (dtype, len(axes), shape):
            wanted = ", ".join(str(lengths.get(axis, axis)) for axis in axes)
            raise InputError(
                f"{where}: {name} is {tensor.dtype} {tensor.shape}; it must be {dtype} ({wanted})."
            )
        if not np.isfinite(tensor).all() or tensor.size == 0:
            raise InputError(f"{where}: {name} holds values that are no finite numbers, or none.")


def predictor_of(config: RouterConfig, tensors: Tensors) -> Predictor:
    """Return what a router predicts by, from checked tensors."""
    ends = np.cumsum([place.components for place in config.places])[:-1]
    steps = {int(k): values for k, values in unprefixed(tensors, "calibration").items()}
    return Predictor(
        places=[("", place.layer, place.pooling) for place in config.places],
        centre=list(tensors["centre"]),
        projection=[np.ascontiguousarray(w) for w in np.split(tensors["projection"], ends, 1)],
        head=config.head,
        tensors=unprefixed(tensors, "head"),
        calibration=Calibration(list(config.calibration), tensors["calibration"], steps),
    )


def costs_of(
    config: RouterConfig, tensors: Tensors, tokenizers: Mapping[int, Tokenizer]
) -> CostModel | None:
    """Return what a router expects costs by, from checked tensors; None without prices."""
    if config.prices is None:
        return None
    prices = config.prices
    rates = [
        (prices.input[target], prices.output[target]) if target in prices.input else (0, MILLION)
        for target in config.pool
    ]
    lengths = LengthModel(**unprefixed(tensors, "lengths"))
    return CostModel(lengths, *(np.array(rates).T / MILLION), dict(tokenizers))


def prefixed(prefix: str, tensors: Mapping) -> Tensors:
    """Return tensors of a part as the file names them."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(tensors: Tensors, prefix: str) -> dict[str, np.ndarray]:
    """Return the tensors of a part, without its prefix."""
    named = ((name.partition("."), tensor) for name, tensor in tensors.items())
    return {name: tensor for (first, dot, name), tensor in named if dot and first == prefix}
