"""Which fields of a loop each command looks at, and what is loaded from where they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefill_router.cli.common import overrides
from prefill_router.errors import InputError
from prefill_router.loop import Loop, read_loop

if TYPE_CHECKING:
    from prefill_router.labels import Labels
    from prefill_router.router import Router

LABELS = ("labels", "n_queries", "seed")
PRICES = ("targets", "prices")
ROUTER = ("router", "encoder", "device")
READ = {
    "collect": (
        "queries", "labels", *PRICES, "grader", "max_new_tokens", "temperature", "batch_size",
        "cap_usd", "device", "seed",
    ),
    "fit": (
        *LABELS, *PRICES, *ROUTER, "layers", "dimensions", "n_seeds", "max_tokens", "truncation",
        "max_loss", "confidence",
    ),
    "evaluate": (*LABELS, *PRICES, *ROUTER),
    "route": (*ROUTER, "policy", "tau", "lam", "budget", "accuracy", "exclude"),
    "report": (*LABELS, *PRICES, *ROUTER, "report"),
    "add-target": (*LABELS, *PRICES, *ROUTER),
}  # fmt: skip
"""The fields of a loop that each command looks at."""


def fields(command: str) -> str:
    """Return the list of the fields that a command looks at, for its help."""
    shown = [
        f"* **{name}**: {meaning}" + f" (default: {default})" * bool(default)
        for name, default, meaning in Loop.explained()
        if name.partition(":")[0] in READ[command] and (command == "collect" or ":" not in name)
    ]
    head = f"**Fields of LOOP.yaml that {command} reads**, each also given by -p:"
    return "\n".join([head, "", *shown])


def settings_of(command: str, loop: Path, parameter: list[str] | None) -> Loop:
    """Read the loop's file and what `-p` overrides, which must be what the command looks at."""
    given = overrides(parameter)
    for name in given:
        if name in Loop.model_fields and name not in READ[command]:
            readers = ", ".join(other for other, names in READ.items() if name in names)
            raise InputError(f"-p {name}: {command} does not look at it; {readers} would.")
    return read_loop(loop, given)


def labels_of(loop: Path, settings: Loop, targets: list[str], at_least: int = 2) -> Labels:
    """Load the labels of some targets, or say which command makes them."""
    from prefill_router.labels import load_labels

    source = settings.label_source
    if not (Path(source).exists() or source.startswith("hub:")):
        raise InputError(
            f"{source}: no such file. `prefill-router collect {loop}` writes it, or "
            "-p labels=FILE names another."
        )
    return load_labels(source, targets, settings.n_queries, settings.seed, at_least)


def router_of(loop: Path, settings: Loop, parameter: list[str] | None) -> Router:
    """Load the router, its encoder from where it was, or where the command line says."""
    from prefill_router.router import Router

    if "/" not in settings.router and not Path(settings.router).exists():  # nor is it a hub's name
        raise InputError(
            f"{settings.router}: no such directory. `prefill-router fit {loop}` writes it, or "
            "-p router=DIRECTORY names another."
        )
    encoder = overrides(parameter).get("encoder")
    return Router.from_pretrained(settings.router, encoder=encoder, device=settings.device)
