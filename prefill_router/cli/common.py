"""What the commands share: errors in plain words, and the fields that a command reads."""

from __future__ import annotations

import errno
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from prefill_router.config import Loop
from prefill_router.errors import InputError
from prefill_router.validation import checked, plain_yaml, read_mapping

console = Console(stderr=True, highlight=False, soft_wrap=True)
INCOMPLETE = 3
"""Exit code of a collection that has not all its answers."""
DATA = "labels n_queries targets prices seed"
SAVED = "router encoder device"
"""Fields that commands read together: of labels, and of a router that was saved."""
READ: dict[str, list[str]] = {}
"""The fields of a loop that each command reads, by the command's name."""
Said = tuple[dict[str, Any], list[str]]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", help="One more, as name=value; overrides the file's."),
]
LoopFile = Annotated[Path, typer.Argument(metavar="LOOP.yaml", help="The loop's file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for a machine.")]


class PlainErrors(TyperGroup):
    """Says in one sentence what went wrong, and exits with a code."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            said, code = f"Error: {error}", 2
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads on
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            said = f"Error: {error}. Finished parts are kept; {'free space and ' * full}run again."
            code = 2
        except KeyboardInterrupt:
            said, code = "Stopped. Finished parts are kept; run again to go on.", 130
        console.print(said, markup=False)
        raise typer.Exit(code)


app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Predict which language model will answer right, from another model's prefill states.",
)
zoo_app = typer.Typer(no_args_is_help=True, help="The embedded models: train, label, serve them.")
toolkit_app = typer.Typer(no_args_is_help=True, help="Exchange files with the authors' toolkit.")
app.add_typer(zoo_app, name="zoo", rich_help_panel="The zoo and the toolkit")
app.add_typer(toolkit_app, name="toolkit", rich_help_panel="The zoo and the toolkit")


def overrides(given: list[str] | None) -> dict[str, Any]:
    """Return what `-p` says, by name; values are read as YAML."""
    values = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"-p {text}: write name=value.")
        values[name.strip()] = plain_yaml(value, f"-p {name.strip()}") if value else ""
    return values


def explanation(title: str, rows: list[tuple[str, str, str]]) -> str:
    """Return the end of a command's help: the name, default and meaning of what it reads."""
    lines = (
        f"* **{name}**: {meaning}" + f" (default: {default})" * bool(default)
        for name, default, meaning in rows
    )
    return "\n".join([f"**{title}**:\n", *lines])


def loop_command(*fields: str) -> Callable[[Callable[..., Said]], None]:
    """Make a command of a function of the loop, and of arguments of its own.

    The function returns what it found, for ``--json``, and the same in lines for people.

    Parameters
    ----------
    *fields : str
        Names, separated by blanks, of what it reads of the loop's file. Of `SAVED`, `encoder`
        counts only where ``-p`` names it: a saved router knows where its encoder was.
    """
    names = " ".join(fields).split()

    def register(function: Callable[..., Said]) -> None:
        command = function.__name__.replace("_", "-")
        READ[command] = names

        def run(
            loop: LoopFile, parameter: Overrides = None, as_json: AsJson = False, **own: Any
        ) -> None:
            given = overrides(parameter)
            for name in given.keys() & Loop.model_fields.keys() - {*names}:
                readers = ", ".join(other for other, read in READ.items() if name in read)
                raise InputError(f"-p {name}: {command} does not read it; {readers} would.")
            p = checked(Loop, read_mapping(loop), str(loop), given)
            if SAVED in fields:
                p = p.model_copy(update={"encoder": given.get("encoder")})
            found, lines = function(p, **own)
            typer.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(lines))
            if found.get("n_missing"):
                raise typer.Exit(INCOMPLETE)

        file, *options, _ = inspect.signature(run, eval_str=True).parameters.values()
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        run.__signature__ = inspect.Signature([file, *own, *options])
        run.__doc__ = function.__doc__
        rows = [
            row
            for row in Loop.explained()
            if row[0].partition(":")[0] in names and (command == "collect" or ":" not in row[0])
        ]
        epilog = explanation(
            f"Fields of LOOP.yaml that {command} reads, each also given by -p", rows
        )
        app.command(command, rich_help_panel="The loop", epilog=epilog)(run)

    return register
