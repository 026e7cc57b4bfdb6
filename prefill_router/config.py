"""The configuration of studies and of the loop: one schema, stated once, validated alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationInfo,
    field_validator,
)

from prefill_router.answers.targets import Endpoint, LocalTarget
from prefill_router.errors import InputError
from prefill_router.storage import fingerprint
from prefill_router.validation import Layers, Settings, checked, listed, read_mapping

if TYPE_CHECKING:
    from prefill_router.labels.costs import Prices

HEAVY = (7, 8, 9, 10, 13)
"""Chapters that run on a sample of the queries unless they are named."""
READERS = ["zoo/reader-s", "zoo/reader-m", "zoo/reader-l"]
PLACES = {"device", "engine", "address", "run_dir"}
"""Parameters that say where it is computed and kept: they do not make it another study."""
ZOO_TARGETS = ["gpt2-a", "llama-b", "qwen3-c", "neox-d", "thinker-e"]

Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Config(Settings):
    """What studies and the loop share.

    A list may also be given as text (``'[2, 3]'`` or ``'a, b'``), which is how command lines pass
    it.
    """

    labels: Name = Field("zoo", description="label table: zoo, a file, directory or hub:OWNER/NAME")
    prices: str = Field("zoo", description="price table: zoo, a CSV file, or empty for no costs")
    targets: list[str] = Field([], description="targets to route between; empty for all")
    encoder: Name = Field("zoo/reader-l", description="encoder that the router reads")
    layers: Layers = Field(
        "all", description="layers read: all, upper (half), or a list for encoder; 0: embedding"
    )
    dimensions: list[PositiveInt] = Field(
        [16, 32, 64, 128], min_length=1, description="PCA dimensions tried"
    )
    max_tokens: NonNegativeInt = Field(
        0, description="longest prompt; 0 for the encoder's own limit"
    )
    truncation: Literal["error", "left", "right"] = Field(
        "error", description="what to do with a longer prompt: error, or the side to cut"
    )
    n_queries: NonNegativeInt = Field(0, description="queries used, a seeded sample; 0 for all")
    n_seeds: PositiveInt = Field(10, description="SharedTrunkNets trained")
    device: str = Field(
        "cpu", description="torch device that reads and trains, auto, or spread over all"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of splits, training and resampling")

    @field_validator("*", mode="before")
    @classmethod
    def _accept_text(cls, value: Any, info: ValidationInfo) -> Any:
        is_list = isinstance(cls.model_fields[info.field_name].default, list)
        return listed(value) if is_list else value


class Parameters(Config):
    """What a study is made from; every notebook's `parameters` cell holds these names, defaults."""

    encoders: list[str] = Field(
        [*READERS, "zoo/reader-l-untrained", *(f"zoo/{name}" for name in ZOO_TARGETS)],
        description="encoders compared; one named like a target is that target's own",
    )
    untrained: str = Field(
        "zoo/reader-l-untrained", description="encoder with random weights, a control; or empty"
    )
    embedding: Name = Field(
        "lsa", description="semantic baseline: lsa (of TF-IDF) or an encoder (its last layer)"
    )
    poolings: list[Literal["last", "mean", "user_mean"]] = Field(
        ["last", "mean"], min_length=1, description="how states are pooled over tokens"
    )
    criterion: Literal["auc", "J"] = Field("auc", description="what chooses a target's layer")
    outer_folds: PositiveInt = Field(
        1, description="1: one split; more: cross-validation, each query tested once"
    )
    inner_folds: int = Field(5, ge=2, description="folds, within training rows, that choose layers")
    keep: PositiveInt = Field(
        5, validate_default=True, description="SharedTrunkNets kept, by inner validation loss"
    )
    n_resamples: int = Field(2000, ge=100, description="bootstrap resamples of query groups")
    full: list[PositiveInt] = Field(
        [], description="chapters (of 7 to 10, 13) run at full size, not on a sample: takes hours"
    )
    fresh_labels: bool = Field(False, description="ask the zoo's targets everything again")
    engine: Literal["local", "ray"] = Field(
        "local", description="who reads prompts: local, this machine; or ray, a cluster's workers"
    )
    address: str = Field("", description="Ray cluster to use; empty: RAY_ADDRESS, or a local one")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision in which encoders compute"
    )
    run_dir: str = Field("", description="where results go; empty: runs/ and a hash of the above")

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
            raise ValueError(f"{others} always run in full; choose from {list(HEAVY)}")
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
    """Return a study's parameters; as `prefill_router.validation.checked`."""
    return checked(Parameters, values, source, origins)


def from_namespace(namespace: Mapping[str, Any]) -> Parameters:
    """Return the parameters that a notebook's cells have set.

    Everything in the namespace that is not IPython's or a module counts as a parameter, so that a
    misspelled one, of which papermill only warns, is an error here.

    Parameters
    ----------
    namespace : mapping
        ``globals()``, in the first cell after `parameters`.
    """
    ipython = {"In", "Out", "exit", "quit", "open", "get_ipython"}
    values = {
        name: value
        for name, value in namespace.items()
        if not (name.startswith("_") or name in ipython)
        and not (isinstance(value, ModuleType) or callable(value))
    }
    return validate(values, "the parameters of this notebook")


def _kind(value: Any) -> str:
    """Tell a local model, by its name or by name and price, from an endpoint."""
    if isinstance(value, str):
        return "local target"
    fields = value.keys() if isinstance(value, Mapping) else getattr(value, "model_fields_set", ())
    return "priced target" if set(fields) == {"name", "price"} else "target at an endpoint"


Target = Annotated[
    Annotated[Name, Tag("local target")]
    | Annotated[LocalTarget, Tag("priced target")]
    | Annotated[Endpoint, Tag("target at an endpoint")],
    Discriminator(_kind),
]


class Loop(Config):
    """What the commands from labels to a router share; paths start where the command is run."""

    queries: str = Field(
        "", description="collect: table with query_id, question, benchmark and reference"
    )
    labels: Name = Field(
        "labels.parquet", description="label table: collect writes it, others read it; zoo"
    )
    targets: list[Target] = Field(
        [],
        description="whom to ask: local models by name, or name and price; endpoints by fields",
    )
    prices: str = Field(
        "", description="price table of targets that state no price; zoo, a file, or empty"
    )
    grader: str = Field(
        "exact", description="exact, numeric, choice, regex:PATTERN, or module:function of yours"
    )
    max_new_tokens: PositiveInt = Field(64, description="longest answer, in tokens")
    temperature: NonNegativeFloat = Field(0.0, description="0: the likeliest token at each step")
    batch_size: PositiveInt = Field(256, description="prompts that a local model reads at a time")
    cap_usd: NonNegativeFloat | None = Field(
        None, description="the most that endpoints may charge, over all runs; empty: no cap"
    )
    head: Literal["auto", "trunk", "logistic", "ridge"] = Field(
        "auto", description="trunk (as published), logistic, ridge, or the best on validation: auto"
    )
    max_loss: Share = Field(
        0.02, description="guarantee: accuracy given up against the best single target, at most"
    )
    confidence: Share = Field(0.95, description="confidence with which that is promised")
    router: Name = Field("router", description="directory of the router")
    policy: Literal["tolerance", "argmax", "utility", "budget", "abstain"] = Field(
        "tolerance",
        description="how a target is chosen: tolerance, argmax, utility, budget or abstain",
    )
    tau: Share | None = Field(None, description="of tolerance; empty: the certified one")
    lam: NonNegativeFloat | None = Field(None, description="of utility: worth of one USD in P")
    budget: NonNegativeFloat | None = Field(None, description="of budget: USD per query on average")
    accuracy: Share | None = Field(None, description="of abstain: wanted among what is answered")
    exclude: list[str] = Field([], description="targets not to choose now")
    report: Name = Field("report.html", description="page to write")

    @field_validator("targets")
    @classmethod
    def _have_names_of_their_own(cls, value: list[Target]) -> list[Target]:
        names = target_names(value)
        if len(set(names)) < len(names):
            raise ValueError(f"two have the same name among {', '.join(names)}")
        return value

    @classmethod
    def explained(cls) -> list[tuple[str, str, str]]:
        """Return name, default and meaning of every field, an endpoint's own ones included."""
        rows = []
        for prefix, model in (("", cls), ("targets: ", Endpoint)):
            for name, field in model.model_fields.items():
                default = field.get_default(call_default_factory=True)
                shown = "" if field.is_required() or default in (None, [], {}) else str(default)
                rows.append((prefix + name, shown, field.description or ""))
        return rows


def read_loop(path: str | Path, given: Mapping[str, Any] | None = None) -> Loop:
    """Read a loop's YAML file.

    Parameters
    ----------
    path : path-like
    given : mapping, optional
        Values that override the file's.

    Raises
    ------
    InputError
        As for `prefill_router.validation.read_mapping` and `checked`.
    """
    given = dict(given or {})
    return checked(Loop, read_mapping(path) | given, str(path), dict.fromkeys(given, "-p"))


def target_names(targets: list[Target]) -> list[str]:
    """Return what the targets of a loop are called."""
    return [getattr(target, "name", target) for target in targets]


def price_table(targets: list[Target], prices: str) -> Prices | None:
    """Return the prices that targets state and those of a table; None if there are none.

    Raises
    ------
    InputError
        If a target has a price in both.
    """
    from prefill_router import zoo
    from prefill_router.labels.costs import Prices, load_prices

    own = {t.name: t.price for t in targets if getattr(t, "price", None) is not None}
    table = Prices({}, {}, source="the loop's file")
    if prices:
        table = load_prices(zoo.PRICES if prices == "zoo" else prices)
    if both := sorted(own.keys() & table.input.keys()):
        raise InputError(f"Target {both[0]!r} has a price of its own and one in {prices}.")
    if not own and not table.input:
        return None
    return Prices(
        table.input | {name: price.input for name, price in own.items()},
        table.output | {name: price.output for name, price in own.items()},
        table.as_of,
        table.source,
    )
