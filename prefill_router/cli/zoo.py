"""Commands that make the embedded zoo again, and serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefill_router.cli.common import Device, plain_errors
from prefill_router.errors import InputError


def train(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to train, such as reader-m; none for all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where they go. [default: the package]")] = None,
    device: Device = "cpu",
) -> None:
    """Train models of the zoo from scratch; an interrupted training goes on where it stopped."""
    from prefill_router.errors import did_you_mean
    from prefill_router.extraction.sources import ZOO
    from prefill_router.zoo.recipes import RECIPES
    from prefill_router.zoo.training import train as train_model

    with plain_errors(out or ZOO):
        for name in names or ():  # all, before hours go into the first
            if name not in RECIPES:
                raise InputError(f"There is no recipe {name!r}.{did_you_mean(name, RECIPES)}")
        for name in names or RECIPES:
            target = out or ZOO
            losses = train_model(RECIPES[name], target, Path(".cache") / "zoo", device)
            final = f", last loss {losses[-1]:.3f}" if losses else ""
            typer.echo(f"{target / name}: done{final}")


def labels(device: Device = "cpu") -> None:
    """Ask every target every question of the skills benchmark and write the default labels."""
    from prefill_router.storage import Store
    from prefill_router.zoo.labelling import write_default_labels

    cache = Path(".cache") / "zoo"
    with plain_errors(cache):
        write_default_labels(Store(cache), device)
    typer.echo("The zoo's labels, their manifest and the price table are written.")


def samples(device: Device = "cpu") -> None:
    """Ask every target the validation and test questions ten times at temperature 1, to measure
    label noise; takes about ten minutes. An interrupted call goes on where it stopped."""
    from prefill_router.storage import Store
    from prefill_router.zoo.sampling import write_default_samples

    cache = Path(".cache") / "zoo"
    with plain_errors(cache):
        write_default_samples(Store(cache), device)
    typer.echo("The zoo's sampled answers and their manifest are written.")


def queries(
    out: Annotated[Path, typer.Argument(help="Table to write: .parquet, .csv or .csv.gz.")],
) -> None:
    """Write the skills benchmark, as `collect` reads it."""
    from prefill_router.labels.tables import write_table
    from prefill_router.zoo.skills import benchmark

    with plain_errors(out):
        write_table(benchmark(), out)


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Serve the zoo's models as an OpenAI-compatible endpoint, on this machine only.

    Good for trying out `collect`; not made for load. Stop it with Ctrl-C.
    """
    from prefill_router.zoo.serving import ZooServer

    with plain_errors(f"port {port}"), ZooServer(port) as server:
        typer.echo(f"The zoo answers at {server.base_url}")
        server.serve_forever()
