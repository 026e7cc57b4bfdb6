"""The configuration of studies and of the loop: one schema, stated once, validated alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
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
from prefill_router.validation import Settings, checked, field, plain_yaml

if TYPE_CHECKING:
    from prefill_router.labels.costs import Prices

READERS = ["zoo/reader-s", "zoo/reader-m", "zoo/reader-l"]
PLACES = {"device", "engine", "address", "run_dir"}
"""Parameters that say where it is computed and kept: they do not make it another study."""
ZOO_TARGETS = ["gpt2-a", "llama-b", "qwen3-c", "neox-d", "thinker-e"]

T = TypeVar("T")


def listed(value: Any) -> Any:
    """Return the list that a text (``"a, b"``, ``"[a, b]"``) or a number stands for.

    That is how command lines pass it. Anything else is returned as it is.
    """
    if type(value) is int:
        return [value]
    if not isinstance(value, str):
        return value
    if value.strip().startswith("["):
        return plain_yaml(value, "the text")
    return [item.strip() for item in value.split(",") if item.strip()]


def once(values: list) -> list:
    """Return values no two of which are the same, or targets of the same name."""
    names = [getattr(value, "name", value) for value in values]
    if len(set(names)) < len(names):
        raise ValueError(f"{names} names something twice")
    return values


Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Listed = Annotated[list[T], BeforeValidator(listed), AfterValidator(once)]
Layers = Literal["all", "upper"] | Annotated[Listed[NonNegativeInt], Field(min_length=1)]
"""Layers of an encoder: all, the upper half, or those of a list."""


class Config(Settings):
    """What studies and the loop share; see `listed` for lists."""

    labels: Name = field("zoo", "label table: zoo, a file, directory or hub:OWNER/NAME")
    prices: str = field("zoo", "price table: zoo, a CSV file, or empty for no costs")
    targets: Listed[str] = field([], "targets to route between; empty for all")
    encoder: Name = field("zoo/reader-l", "encoder that the router reads")
    layers: Layers = field(
        "all", "layers read: all, upper (half), or a list for encoder; 0: embedding"
    )
    dimensions: Listed[PositiveInt] = field([16, 32, 64, 128], "PCA dimensions tried", min_length=1)
    max_tokens: NonNegativeInt = field(0, "longest prompt; 0 for the encoder's own limit")
    truncation: Literal["error", "left", "right"] = field(
        "error", "what to do with a longer prompt: error, or the side to cut"
    )
    n_queries: NonNegativeInt = field(0, "queries used, a seeded sample; 0 for all")
    n_seeds: PositiveInt = field(10, "SharedTrunkNets trained")
    device: str = field("cpu", "torch device that reads and trains, auto, or spread over all")
    seed: int = field(0, "seed of splits, training and resampling", ge=0, lt=2**32)


class Parameters(Config):
    """What a study is made from; notebooks' `parameters` cells show some of these fields."""

    encoders: Listed[str] = field(
        [*READERS, "zoo/reader-l-untrained", *(f"zoo/{name}" for name in ZOO_TARGETS)],
        "encoders compared; one named like a target is that target's own",
    )
    untrained: str = field(
        "zoo/reader-l-untrained", "encoder with random weights, a control; or empty"
    )
    embedding: Name = field(
        "lsa", "semantic baseline: lsa (of TF-IDF) or an encoder (its last layer)"
    )
    poolings: Listed[Literal["last", "mean", "user_mean"]] = field(
        ["last", "mean"], "how states are pooled over tokens", min_length=1
    )
    criterion: Literal["auc", "J"] = field("auc", "what chooses a target's layer")
    outer_folds: PositiveInt = field(
        1, "1: one split; more: cross-validation, each query tested once"
    )
    inner_folds: int = field(5, "folds, within training rows, that choose layers", ge=2)
    keep: PositiveInt = field(
        5, "SharedTrunkNets kept, by inner validation loss", validate_default=True
    )
    n_resamples: int = field(2000, "bootstrap resamples of query groups", ge=100)
    slow_routers: bool = field(False, "also fit baselines that take minutes, such as fine-tuning")
    fresh_labels: bool = field(False, "ask the zoo's targets everything again")
    engine: Literal["local", "ray"] = field(
        "local", "who reads prompts: local, this machine; or ray, a cluster's workers"
    )
    address: str = field("", "Ray cluster to use; empty: RAY_ADDRESS, or a local one")
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        "float32", "precision in which encoders compute"
    )
    run_dir: str = field("", "where results go; empty: runs/ and a hash of the above")

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


def validate(
    values: Mapping[str, Any], source: str = "parameters", given: Mapping[str, Any] | None = None
) -> Parameters:
    """Return a study's parameters; as `prefill_router.validation.checked`."""
    return checked(Parameters, values, source, given)


def from_namespace(namespace: Mapping[str, Any]) -> Parameters:
    """Return the parameters that a notebook's cells have set; the others take their defaults.

    Everything in the namespace that is not IPython's or a module counts as a parameter, so that a
    misspelled one, of which papermill only warns, is an error here.

    Parameters
    ----------
    namespace : mapping
        ``globals()``, in the first cell after `parameters`.
    """
    values = {
        name: value
        for name, value in namespace.items()
        if not (name.startswith("_") or name in ("In", "Out") or isinstance(value, ModuleType))
        and not callable(value)
    }
    return validate(values, "the parameters of this notebook")


def project_root() -> Path:
    """Return the source tree that the package runs from, where relative paths of studies start.

    Raises
    ------
    InputError
        If there is none: a wheel holds the library without notebooks and pages.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "_toc.yml").is_file():
        raise InputError(
            "The notebooks and the book's pages are not part of an installed wheel: clone the "
            "repository and install it with `pip install -e '.[book]'`."
        )
    return root


def _kind(value: Any) -> str:
    """Say which kind of `Target` a value is meant to be."""
    if isinstance(value, str):
        return "a name"
    fields = value if isinstance(value, Mapping) else getattr(value, "model_fields_set", ())
    return "a local target" if {*fields} == {"name", "price"} else "an endpoint"


Target = Annotated[
    Annotated[Name, Tag("a name")]
    | Annotated[LocalTarget, Tag("a local target")]
    | Annotated[Endpoint, Tag("an endpoint")],
    Discriminator(_kind),
]


class Loop(Config):
    """What the commands from labels to a router share; paths start where the command is run."""

    queries: str = field("", "collect: table with query_id, question, benchmark and reference")
    labels: Name = field("labels.parquet", "label table: collect writes it, others read it; zoo")
    targets: Listed[Target] = field(
        [], "whom to ask: local models by name, or name and price; endpoints by fields"
    )
    prices: str = field("", "price table of targets that state no price: zoo, a file, or empty")
    grader: str = field(
        "exact", "exact, numeric, choice, regex:PATTERN, or module:function of yours"
    )
    max_new_tokens: PositiveInt = field(64, "longest answer, in tokens")
    temperature: NonNegativeFloat = field(0.0, "0: the likeliest token at each step")
    batch_size: PositiveInt = field(256, "prompts that a local model reads at a time")
    cap_usd: NonNegativeFloat | None = field(
        None, "the most that endpoints may charge, over all runs; empty: no cap"
    )
    head: Literal["auto", "trunk", "logistic", "ridge"] = field(
        "auto", "trunk (as published), logistic, ridge, or the best on validation: auto"
    )
    max_loss: Share = field(
        0.02, "guarantee: accuracy given up against the best single target, at most"
    )
    confidence: Share = field(0.95, "confidence with which that is promised")
    router: Name = field("router", "directory of the router")
    policy: Literal["tolerance", "argmax", "utility", "budget", "abstain"] = field(
        "tolerance", "how a target is chosen: tolerance, argmax, utility, budget or abstain"
    )
    tau: Share | None = field(None, "of tolerance; empty: the certified one")
    lam: NonNegativeFloat | None = field(None, "of utility: worth of one USD in P")
    budget: NonNegativeFloat | None = field(None, "of budget: USD per query on average")
    accuracy: Share | None = field(None, "of abstain: wanted among what is answered")
    exclude: Listed[str] = field([], "targets not to choose now")
    report: Name = field("report.html", "page to write")

    @property
    def target_names(self) -> list[str]:
        """What the targets are called."""
        return [getattr(target, "name", target) for target in self.targets]

    def price_table(self) -> Prices | None:
        """Return the prices that targets state and those of a table; None if there are none.

        Raises
        ------
        InputError
            If a target has a price in both.
        """
        from prefill_router import zoo
        from prefill_router.labels.costs import Prices, load_prices

        own = {t.name: t.price for t in self.targets if getattr(t, "price", None)}
        path = zoo.PRICES if self.prices == "zoo" else self.prices
        table = load_prices(path) if path else Prices({}, {}, source="the loop's file")
        if both := sorted(own.keys() & table.input.keys()):
            raise InputError(f"Target {both[0]!r} has a price of its own and one in {self.prices}.")
        for name, price in own.items():
            table.input[name], table.output[name] = price.input, price.output
        return table if table.input else None

    @classmethod
    def explained(cls) -> list[tuple[str, str, str]]:
        """Return name, default and meaning of every field, an endpoint's own ones included."""
        own = [(f"targets: {name}", *rest) for name, *rest in Endpoint.explained()]
        return [*super().explained(), *own]
