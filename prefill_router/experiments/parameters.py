"""The parameters of a study: stated once, validated wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

from pydantic import (
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from prefill_router.storage import fingerprint
from prefill_router.validation import Layers, Settings, checked, listed

HEAVY = (7, 8, 9, 10, 13)
"""Chapters that ask a sample unless they are named."""
READERS = ["zoo/reader-s", "zoo/reader-m", "zoo/reader-l"]
PLACES = {"device", "engine", "address", "run_dir"}
"""Parameters that say where it is computed and kept: they do not make it another study."""
ZOO_TARGETS = ["gpt2-a", "llama-b", "qwen3-c", "neox-d", "thinker-e"]


class Parameters(Settings):
    """What a study is made from; every notebook's `parameters` cell holds these names and defaults.

    A list may also be given as text (``'[2, 3]'`` or ``'a, b'``), which is how papermill's command
    line passes it.
    """

    labels: str = Field(
        "zoo", min_length=1, description="label table: zoo, a file, directory or hub:OWNER/NAME"
    )
    prices: str = Field("zoo", description="price table: zoo, a CSV file, or empty for no costs")
    targets: list[str] = Field([], description="targets to route between; empty for all")
    encoder: str = Field("zoo/reader-l", min_length=1, description="encoder that the router reads")
    encoders: list[str] = Field(
        [*READERS, "zoo/reader-l-untrained", *(f"zoo/{name}" for name in ZOO_TARGETS)],
        description="encoders compared; one named like a target is that target's own",
    )
    untrained: str = Field(
        "zoo/reader-l-untrained", description="encoder with random weights, a control; or empty"
    )
    embedding: str = Field(
        "lsa",
        min_length=1,
        description="semantic baseline: lsa (of TF-IDF) or an encoder (its last layer)",
    )
    layers: Layers = Field(
        "all", description="layers read: all, upper (half), or a list for encoder; 0: embedding"
    )
    poolings: list[Literal["last", "mean", "user_mean"]] = Field(
        ["last", "mean"], min_length=1, description="how states are pooled over tokens"
    )
    dimensions: list[PositiveInt] = Field(
        [16, 32, 64, 128], min_length=1, description="PCA dimensions tried"
    )
    criterion: Literal["auc", "J"] = Field("auc", description="what chooses a target's layer")
    max_tokens: int = Field(0, ge=0, description="longest prompt; 0 for the encoder's own limit")
    truncation: Literal["error", "left", "right"] = Field(
        "error", description="what to do with a longer prompt: error, or the side to cut"
    )
    n_queries: int = Field(0, ge=0, description="queries used, a seeded sample; 0 for all")
    outer_folds: int = Field(
        1, ge=1, description="1: one split; more: cross-validation, each query tested once"
    )
    inner_folds: int = Field(3, ge=2, description="folds, within training rows, that choose layers")
    n_seeds: int = Field(10, ge=1, description="SharedTrunkNets trained")
    keep: int = Field(
        5, ge=1, validate_default=True, description="SharedTrunkNets kept, by inner validation loss"
    )
    n_resamples: int = Field(2000, ge=100, description="bootstrap resamples of query groups")
    full: list[PositiveInt] = Field(
        [], description="chapters (of 7 to 10, 13) asked at full size, not on a sample: takes hours"
    )
    fresh_labels: bool = Field(False, description="ask the zoo's targets everything again")
    device: str = Field(
        "cpu", description="torch device that reads and trains, auto, or spread over all"
    )
    engine: Literal["local", "ray"] = Field(
        "local", description="who reads prompts: local, this machine; or ray, a cluster's workers"
    )
    address: str = Field("", description="Ray cluster to use; empty: RAY_ADDRESS, or a local one")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision in which encoders compute"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of splits, training and resampling")
    run_dir: str = Field("", description="where results go; empty: runs/ and a hash of the above")

    @field_validator("targets", "encoders", "poolings", "dimensions", "full", mode="before")
    @classmethod
    def _accept_text(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("targets", "encoders", "poolings", "dimensions", "full")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names something twice")
        return value

    @field_validator("full")
    @classmethod
    def _are_heavy(cls, value: list[int]) -> list[int]:
        if others := sorted(set(value) - set(HEAVY)):
            raise ValueError(f"{others} are always asked in full; choose from {list(HEAVY)}")
        return value

    @field_validator("keep")
    @classmethod
    def _no_more_than_trained(cls, value: int, others: ValidationInfo) -> int:
        if value > others.data.get("n_seeds", value):
            raise ValueError(f"no more than n_seeds ({others.data['n_seeds']}) can be kept")
        return value

    @property
    def fingerprint(self) -> str:
        """Sixteen characters that identify everything but `PLACES`."""
        return fingerprint(self.model_dump(exclude=PLACES))

    @classmethod
    def cell(cls) -> str:
        """Return the source of a notebook's `parameters` cell: typed, commented defaults."""
        return "\n".join(
            f"{name}: {type(field.default).__name__} = {_literal(field.default)}"
            f"  # {field.description}"
            for name, field in cls.model_fields.items()
        )


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, bool) else json.dumps(value)


def validate(
    values: Mapping[str, Any],
    source: str = "parameters",
    origins: Mapping[str, str] | None = None,
) -> Parameters:
    """Return validated parameters.

    Parameters
    ----------
    values : mapping
        Names and values; what is absent takes its default.
    source : str
        Where they come from, for the error message.
    origins : mapping of str to str, optional
        Where those come from, by name, that come from elsewhere.

    Raises
    ------
    InputError
        If a name is unknown or a value cannot be used; names each one.
    """
    return checked(Parameters, values, source, origins)


def from_namespace(namespace: Mapping[str, Any]) -> Parameters:
    """Return the parameters that a notebook's cells have set.

    Everything in the namespace that is not IPython's or a module counts as a parameter, so that a
    misspelled one, of which papermill only warns, is an error here.

    Parameters
    ----------
    namespace : mapping
        ``globals()``, in the first cell after `parameters`.

    Returns
    -------
    Parameters
    """
    ipython = {"In", "Out", "exit", "quit", "open", "get_ipython"}
    values = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in ipython
        and not isinstance(value, ModuleType)
        and not callable(value)
    }
    return validate(values, "the parameters of this notebook")
