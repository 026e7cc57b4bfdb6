"""The command line: `study` and `loop` commands, the zoo's, and exchange with the toolkit."""

from __future__ import annotations

import typer

from prefill_router.cli import loop, study, toolkit, zoo
from prefill_router.cli.loop_fields import fields

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Predict which language model will answer right, from another model's prefill states.",
)
zoo_app = typer.Typer(no_args_is_help=True, help="The embedded models: train, label, serve them.")
toolkit_app = typer.Typer(no_args_is_help=True, help="Exchange files with the authors' toolkit.")

for name, command in loop.COMMANDS.items():
    app.command(name, rich_help_panel="The loop", epilog=fields(name))(command)
for command in (study.run, study.book, study.publish, study.notebooks):
    app.command(rich_help_panel="Studies")(command)
for command in (study.extract, study.untrained):
    app.command(rich_help_panel="Encoders")(command)
for command in (zoo.train, zoo.labels, zoo.samples, zoo.queries, zoo.serve):
    zoo_app.command()(command)
for command in (toolkit.pool, toolkit.labels):
    toolkit_app.command()(command)
app.add_typer(zoo_app, name="zoo", rich_help_panel="The zoo and the toolkit")
app.add_typer(toolkit_app, name="toolkit", rich_help_panel="The zoo and the toolkit")
