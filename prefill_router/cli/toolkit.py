"""Commands that exchange files with the toolkit of the paper's authors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefill_router.cli.common import plain_errors


def pool(
    source: Annotated[Path, typer.Argument(help="The toolkit's YAML of models.")],
    out: Annotated[Path, typer.Argument(help="Loop to write: its targets, with their prices.")],
) -> None:
    """Turn the toolkit's pool of models into the targets of a loop.

    Keys are never copied: each target names the environment variable that holds its own.
    """
    from prefill_router.answers.toolkit import import_pool

    with plain_errors(out):
        endpoints = import_pool(source, out)
        typer.echo(f"{len(endpoints)} targets written to {out}.")
        for name in sorted({endpoint.key for endpoint in endpoints if endpoint.key}):
            typer.echo(f"Set {name} to the endpoint's key.")


def labels(
    source: Annotated[Path, typer.Argument(help="A label table, in any layout.")],
    out: Annotated[Path, typer.Argument(help="CSV to write: question, model, isCorrect...")],
) -> None:
    """Write labels as the toolkit reads them."""
    from prefill_router.answers.toolkit import write_toolkit_labels
    from prefill_router.labels import load_labels

    with plain_errors(out):
        n, left_out = write_toolkit_labels(load_labels(source), out)
        typer.echo(f"{n} labels written to {out}.")
        if left_out:
            typer.echo(f"{left_out} questions left out: not every target was asked them.")
