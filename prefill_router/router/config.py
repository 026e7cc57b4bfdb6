"""What a saved router says of itself: the schema of ``router.json``, every field checked."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from prefill_router.evaluation.results import results
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.recipe.calibration import FAMILIES
from prefill_router.recipe.heads import HEADS
from prefill_router.router.guarantee import Guarantee, Share

FORMAT = 3

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Amount = Annotated[float, Field(ge=0)]
T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list; of a file full of faults the first one is said."""
Rows = Many[dict[str, str | int | float | None]]
"""Results, by column of `prefill_router.evaluation.results`; what does not apply is left out."""


class Part(BaseModel):
    """Strict: no unknown field, no number for a text, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PlaceRecord(Part):
    """A layer and pooling whose states are read, and how many components are taken of them."""

    layer: Annotated[int, Field(ge=0, le=10_000)]
    pooling: Name
    components: Count


class PriceRecord(Part):
    """What a target charges, in USD per million tokens; None where labels gave costs themselves.

    `tokenizer` is the SHA-256 of the target's own ``tokenizer.json``, if that counts its input.
    """

    input: Amount | None
    output: Amount | None
    tokenizer: Digest | None

    @model_validator(mode="after")
    def _is_known(self) -> PriceRecord:
        if (self.input is None) != (self.output is None):
            raise ValueError("a price is unknown, which is not 0")
        return self


class AddedRecord(Part):
    """A target added later: its head on the others' logits, and what its answers cost.

    `input` and `output` are USD per million tokens, `output_tokens` and `mean_cost` means over its
    `n` labelled queries; all but `mean_cost` are None where labels gave costs themselves, and that
    too where the router knows none. `certified` says whether the guarantee covers it; `metrics` are
    what `added_targets.fit_added` measured.
    """

    name: Name
    intercept: float
    weights: Many[float]
    accuracy: Share
    n: Count
    certified: bool
    input: Amount | None = None
    output: Amount | None = None
    output_tokens: Amount | None = None
    mean_cost: Amount | None = None
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

    `encoder` is None where the router was fitted to arrays; `tau` and `lam` were chosen on
    validation queries; `accuracy` is each target's on training queries, None where it has no label
    there; `tensors` is the SHA-256 of ``router.safetensors``.
    """

    format: Literal[FORMAT]
    package: Name
    targets: Annotated[list[Name], Field(min_length=2, fail_fast=True)]
    encoder: EncoderInfo | None
    head: Literal[tuple(HEADS)]
    places: Annotated[list[PlaceRecord], Field(min_length=1, fail_fast=True)]
    calibration: Many[Literal[FAMILIES]]
    prices: Many[PriceRecord] | None
    as_of: Annotated[str, StringConstraints(max_length=1000)]
    tau: Share
    lam: Amount
    accuracy: Many[Share | None]
    guarantee: Guarantee
    metrics: Rows
    data: DataRecord
    tensors: Digest
    added: Many[AddedRecord] = []

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> RouterConfig:
        n = len(self.targets)
        for name in ("calibration", "prices", "accuracy"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise ValueError(f"{name} has {len(values)} entries for {n} targets")
        for record in self.added:
            if len(record.weights) != n:
                raise ValueError(f"added target {record.name!r} has {len(record.weights)} weights")
            price = [v is None for v in (record.input, record.output, record.output_tokens)]
            unknown = record.mean_cost is None
            if unknown != (self.prices is None) or price not in ([True] * 3, [unknown] * 3):
                raise ValueError(f"added target {record.name!r} has costs, or lacks them")
        names = [*self.targets, *(record.name for record in self.added)]
        if len(set(names)) < len(names):
            raise ValueError("a target is named twice")
        if self.guarantee.best_single not in self.targets:
            raise ValueError("guarantee.best_single is not among the targets")
        for rows in (self.metrics, *(record.metrics for record in self.added)):
            results(rows)
        return self
