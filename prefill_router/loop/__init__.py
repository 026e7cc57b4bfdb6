"""The loop, from a study to use, as one YAML file: collect, fit, evaluate, route, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Tag,
    field_validator,
)

from prefill_router.answers.targets import Endpoint, LocalTarget
from prefill_router.errors import InputError
from prefill_router.validation import Layers, Settings, checked, listed, read_mapping

if TYPE_CHECKING:
    from prefill_router.labels.costs import Prices

Share = Annotated[float, Field(ge=0, le=1)]


def _kind(value: Any) -> str:
    """Tell a local model, by its name or by name and price, from an endpoint."""
    if isinstance(value, str):
        return "local target"
    fields = value.keys() if isinstance(value, Mapping) else getattr(value, "model_fields_set", ())
    return "priced target" if set(fields) == {"name", "price"} else "target at an endpoint"


Target = Annotated[
    Annotated[str, Field(min_length=1), Tag("local target")]
    | Annotated[LocalTarget, Tag("priced target")]
    | Annotated[Endpoint, Tag("target at an endpoint")],
    Discriminator(_kind),
]


class Loop(Settings):
    """What the commands of the loop share; paths start where the command is run."""

    queries: str = Field(
        "", description="collect: table with query_id, question, benchmark and reference"
    )
    labels: str = Field(
        "labels.parquet",
        min_length=1,
        description="label table: collect writes it, others read it; zoo",
    )
    targets: list[Target] = Field(
        [],
        description="whom to ask: local models by name, or name and price; endpoints by fields",
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
    prices: str = Field(
        "", description="price table of targets that state no price; zoo, a file, or empty"
    )
    encoder: str = Field("zoo/reader-l", min_length=1, description="model that the router reads")
    layers: Layers = Field("all", description="layers tried: all, upper (half), or a list")
    dimensions: list[PositiveInt] = Field(
        [16, 32, 64, 128], min_length=1, description="PCA dimensions tried"
    )
    n_seeds: PositiveInt = Field(10, description="networks trained; half of them are kept")
    max_tokens: NonNegativeInt = Field(0, description="longest prompt; 0: the encoder's own limit")
    truncation: Literal["error", "left", "right"] = Field(
        "error", description="a longer prompt: error, or the side to cut"
    )
    n_queries: NonNegativeInt = Field(0, description="labels used, a seeded sample; 0: all")
    max_loss: Share = Field(
        0.02, description="guarantee: accuracy given up against the best single target, at most"
    )
    confidence: Share = Field(0.95, description="confidence with which that is promised")
    router: str = Field("router", min_length=1, description="directory of the router")
    policy: Literal["tolerance", "argmax", "utility", "budget", "abstain"] = Field(
        "tolerance",
        description="how a target is chosen: tolerance, argmax, utility, budget or abstain",
    )
    tau: Share | None = Field(None, description="of tolerance; empty: the certified one")
    lam: NonNegativeFloat | None = Field(None, description="of utility: worth of one USD in P")
    budget: NonNegativeFloat | None = Field(None, description="of budget: USD a query on average")
    accuracy: Share | None = Field(None, description="of abstain: wanted among what is answered")
    exclude: list[str] = Field([], description="targets not to choose now")
    report: str = Field("report.html", min_length=1, description="page to write")
    device: str = Field(
        "cpu", description="torch device that answers, reads and trains; auto, or spread over all"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of splits, training and resampling")

    @field_validator("targets", "exclude", "dimensions", mode="before")
    @classmethod
    def _accept_text(cls, value: Any) -> Any:
        return listed(value)

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

    @property
    def target_names(self) -> list[str]:
        """What the targets are called."""
        return [getattr(target, "name", target) for target in self.targets]

    @property
    def asked(self) -> list[str | Endpoint]:
        """The targets as `collect_labels` takes them: local ones by name."""
        return [t.name if isinstance(t, LocalTarget) else t for t in self.targets]

    @property
    def label_source(self) -> str:
        """Where the labels are read from; ``zoo`` means the embedded ones."""
        from prefill_router import zoo

        return str(zoo.LABELS) if self.labels == "zoo" else self.labels

    def price_table(self) -> Prices | None:
        """Return the prices that targets state and those of the table; None if there are none.

        Raises
        ------
        InputError
            If a target has a price in both.
        """
        from prefill_router import zoo
        from prefill_router.labels.costs import Prices, load_prices

        stated = {
            target.name: target.price
            for target in self.targets
            if not isinstance(target, str) and target.price is not None
        }
        if not self.prices:
            table = Prices({}, {}, source="the loop's file")
        else:
            table = load_prices(zoo.PRICES if self.prices == "zoo" else self.prices)
        for name in stated:
            if name in table.input:
                raise InputError(
                    f"Target {name!r} has a price of its own and one in {self.prices}."
                )
        if not stated and not table.input:
            return None
        return Prices(
            table.input | {name: price.input for name, price in stated.items()},
            table.output | {name: price.output for name, price in stated.items()},
            table.as_of,
            table.source,
        )


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
        As for `prefill_router.validation.read_mapping` and `checked`; or if a target is named
        twice.
    """
    given = dict(given or {})
    loop = checked(Loop, read_mapping(path) | given, str(path), dict.fromkeys(given, "-p"))
    names = loop.target_names
    if len(set(names)) < len(names):
        raise InputError(f"{path}: targets: two have the same name among {', '.join(names)}.")
    return loop
