"""What the commands share: errors in plain words, overrides, and what a machine reads."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prefill_router.errors import InputError
from prefill_router.validation import plain_yaml

console = Console(stderr=True, highlight=False, soft_wrap=True)

Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda..., or auto.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", help="One more, as name=value; overrides the file's."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for a machine.")]


@contextmanager
def plain_errors(output: str | Path) -> Iterator[None]:
    """Turn what can go wrong while `output` is written into one sentence, and an exit code."""
    try:
        yield
    except InputError as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(2) from None
    except OSError as error:
        console.print(f"Error: {disk_error(error, output)}", markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("Stopped. Finished parts are kept; run again to go on.", markup=False)
        raise typer.Exit(130) from None


def disk_error(error: OSError, output: str | Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of which a write does not name its file
        return (
            f"{error.strerror}, for {error.filename or output}. Finished parts are kept: free "
            "space there and run again."
        )
    return f"{error}. Finished parts are kept; run again."


def name_and_value(text: str) -> tuple[str, object]:
    """Split an override into a name and the value that YAML reads."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"-p {text}: write name=value.")
    return name.strip(), plain_yaml(value, f"-p {name.strip()}") if value else ""


def overrides(given: list[str] | None) -> dict[str, Any]:
    """Return what `-p` says, by name."""
    return dict(name_and_value(text) for text in given or [])


def say(as_json: bool, found: dict[str, Any], *lines: str) -> None:
    """Print a result: one JSON object, or lines for people."""
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for line in lines:
        typer.echo(line)
