"""What a saved router says of itself: the schema of ``router.json``, every field checked."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from prefill_router.evaluation.estimates import Estimate
from prefill_router.extraction.pooling import POOLINGS
from prefill_router.extraction.prompts import TRUNCATIONS
from prefill_router.recipe.calibration import FAMILIES

FORMAT = 2
MOST = 10_000  # of anything that is counted in a router: targets, layers, networks, rows of metrics

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """Strict: no unknown field, no number for a text, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_no_unknown_field(cls, data: Any) -> Any:
        # One fault for all of them: a file may hold a hundred thousand.
        if isinstance(data, dict) and (unknown := data.keys() - cls.model_fields.keys()):
            raise ValueError(f"{len(unknown)} unknown fields, such as {min(unknown)[:50]!r}")
        return data


class EncoderRecord(Part):
    """Which encoder reads the queries, and how; `weights` is that of `models.weights_hash`."""

    name: Name
    revision: Name | None
    weights: Digest
    dtype: Literal["float32", "bfloat16", "float16"]
    max_tokens: Count | None
    truncation: Literal[TRUNCATIONS]


class PlaceRecord(Part):
    """A layer and pooling whose states are read."""

    layer: Annotated[int, Field(ge=0, le=MOST)]
    pooling: Literal[tuple(POOLINGS)]


class ChoiceRecord(PlaceRecord):
    """What was chosen for a target."""

    dimension: Count


class ShapeRecord(Part):
    """Sizes of the tensors in ``router.safetensors``."""

    width: Count
    components: Count
    networks: Count
    hidden: Annotated[list[Count], Field(max_length=20)]
    validation: Count
    seen: Count


class PriceRecord(Part):
    """What a target charges, in USD per million tokens; None where labels gave costs themselves."""

    input: Amount | None
    output: Amount | None
    predicted: Literal["output_tokens", "cost_usd"]
    tokenizer: Digest | None

    @model_validator(mode="after")
    def _is_known(self) -> PriceRecord:
        if self.predicted == "output_tokens" and None in (self.input, self.output):
            raise ValueError("a price is unknown, which is not 0")
        return self


class MetricRecord(Part):
    """The fields of `estimates.Estimate`; None is undefined."""

    metric: Name
    router: str
    target: str
    split: Name
    estimate: float | None
    lower: float | None
    upper: float | None
    n: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, estimate: Estimate) -> MetricRecord:
        """Return an estimate as ``router.json`` has it."""
        return cls(**{k: None if v != v else v for k, v in asdict(estimate).items()})

    def estimate_of(self) -> Estimate:
        """Return the estimate."""
        return Estimate(**{k: math.nan if v is None else v for k, v in self.model_dump().items()})


class AddedRecord(Part):
    """A target added later: its head on the others' logits, and what its answers cost.

    `input` and `output` are USD per million tokens, `output_tokens` and `mean_cost` means over its
    `n` labelled queries; all but `mean_cost` are None where labels gave costs themselves, and that
    too where the router knows none. `certified` says whether the guarantee covers it; `metrics` are
    what `added_targets.fit_added` measured.
    """

    name: Name
    intercept: float
    weights: Annotated[list[float], Field(max_length=MOST, fail_fast=True)]
    accuracy: Share
    n: Count
    certified: bool
    input: Amount | None = None
    output: Amount | None = None
    output_tokens: Amount | None = None
    mean_cost: Amount | None = None
    metrics: Annotated[list[MetricRecord], Field(max_length=100, fail_fast=True)]


class GuaranteeRecord(Part):
    """The fields of `guarantee.Guarantee`."""

    tau: Share | None
    max_loss: Share
    confidence: Share
    best_single: Name
    n: Count
    n_groups: Count
    taus: Annotated[list[Share], Field(max_length=MOST, fail_fast=True)]
    p_values: Annotated[list[Share], Field(min_length=1, max_length=MOST, fail_fast=True)]


class DataRecord(Part):
    """The labels that it was made from."""

    fingerprint: Name
    queries: Count
    groups: Count
    train: Count
    validation: Count
    test: Count
    benchmarks: Annotated[list[str], Field(max_length=MOST, fail_fast=True)]
    seed: int


class RouterConfig(Part):
    """All of ``router.json``."""

    format: Literal[FORMAT]
    package: Name
    targets: Annotated[list[Name], Field(min_length=2, max_length=MOST, fail_fast=True)]
    encoder: EncoderRecord
    places: Annotated[list[PlaceRecord], Field(min_length=1, max_length=MOST, fail_fast=True)]
    choices: Annotated[list[ChoiceRecord], Field(max_length=MOST, fail_fast=True)]
    shapes: ShapeRecord
    labelled: Annotated[list[bool], Field(fail_fast=True)]
    calibration: Annotated[list[Literal[FAMILIES]], Field(fail_fast=True)]
    prices: Annotated[list[PriceRecord], Field(fail_fast=True)] | None
    as_of: Annotated[str, StringConstraints(max_length=1000)]
    tau: Share
    lam: Amount
    accuracy: Annotated[list[Share | None], Field(fail_fast=True)]
    guarantee: GuaranteeRecord
    metrics: Annotated[list[MetricRecord], Field(max_length=MOST, fail_fast=True)]
    data: DataRecord
    tensors: Digest
    added: Annotated[list[AddedRecord], Field(max_length=MOST, fail_fast=True)] = []

    @model_validator(mode="after")
    def _one_for_each_target(self) -> RouterConfig:
        for name in ("choices", "labelled", "calibration", "prices", "accuracy"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.targets):
                raise ValueError(
                    f"{name} has {len(values)} entries for {len(self.targets)} targets"
                )
        for record in self.added:
            if len(record.weights) != len(self.targets):
                raise ValueError(f"added target {record.name!r} has {len(record.weights)} weights")
            lacks = record.mean_cost is None
            price = [v is None for v in (record.input, record.output, record.output_tokens)]
            if lacks != (self.prices is None) or price not in ([True] * 3, [lacks] * 3):
                raise ValueError(f"added target {record.name!r} has costs, or lacks them")
        names = [*self.targets, *(record.name for record in self.added)]
        if len(set(names)) < len(names):
            raise ValueError("a target is named twice")
        if self.guarantee.best_single not in self.targets:
            raise ValueError("guarantee.best_single is not among the targets")
        return self
