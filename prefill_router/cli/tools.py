"""Commands that run studies, extract states, make the zoo, and serve the toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prefill_router.cli.common import (
    Overrides,
    app,
    explanation,
    overrides,
    toolkit_app,
    zoo_app,
)  # fmt: skip
from prefill_router.config import Parameters, validate
from prefill_router.errors import check_known
from prefill_router.storage import Store
from prefill_router.validation import read_mapping

STUDIES, ENCODERS = "Studies", "Encoders"
CACHE = Path(".cache") / "zoo"


def field(name: str, *names: str):
    """Return the option that gives a parameter of studies."""
    return Option(*names, help=Parameters.model_fields[name].description)


Device = Annotated[str, field("device")]
Directory = Annotated[Path, Argument(help="Directory to write into.")]
RunDirectory = Annotated[Path, Argument(help="A finished run's directory, such as runs/default.")]
Experiment = Annotated[Path | None, Argument(help="YAML file of parameters; none: all defaults.")]
Appendix = Annotated[bool, Option("--appendix", help="Run the appendix too, after the chapters.")]
Chapter = Annotated[str, Option(help="The only chapter to run, such as 09_real_labels.")]
Pages = Annotated[Path | None, Option(help="Where the pages go. [default: RUN_DIR/book]")]
ShowPrompt = Annotated[bool, Option("--show-prompt", help="Only show how a question is read.")]
Models = Annotated[Path | None, Option(help="Where they go. [default: the package]")]
Names = Annotated[list[str] | None, Argument(help="Models to train, such as reader-m; none: all.")]
Table = Annotated[Path, Argument(help="Table to write: .parquet, .csv or .csv.gz.")]


@app.command(rich_help_panel=STUDIES, epilog=explanation("Parameters", Parameters.explained()))
def run(
    experiment: Experiment = None,
    parameter: Overrides = None,
    appendix: Appendix = False,
    chapter: Chapter = "",
) -> None:
    """Run every chapter on your parameters, into runs/NAME/.

    NAME is the experiment file's. What ran before with the same inputs is kept, so an interrupted
    run goes on where it stopped. Relative paths start at the project's directory. Example:

        prefill-router run experiments/default.yaml -p encoder=zoo/reader-m -p run_dir=runs/mine
    """
    from prefill_router.run import run_experiment

    values = {"run_dir": f"runs/{experiment.stem if experiment else 'default'}"}
    values |= read_mapping(experiment) if experiment else {}
    parameters = validate(values, str(experiment or "parameters"), overrides(parameter))
    run_dir = run_experiment(parameters, appendix, chapter)
    next_step = f"Render its book with: prefill-router book {run_dir}"
    if chapter:
        next_step = f"Read {run_dir / 'notebooks' / chapter}.ipynb"
    typer.echo(f"{run_dir}: done. {next_step}")


@app.command(rich_help_panel=STUDIES)
def book(run_dir: RunDirectory, output: Pages = None) -> None:
    """Render a run's book: HTML pages that load nothing from another server."""
    from prefill_router.book import build_book, headline_text

    index = build_book(run_dir, output)
    typer.echo(f"{headline_text(run_dir)}\nThe book: {index}")


@app.command(rich_help_panel=STUDIES)
def publish(run_dir: RunDirectory) -> None:
    """Make a run on real labels the published one, which every book shows of its pool.

    Its results go to experiments/published/NAME, NAME being the directory's. Paths of this machine
    are recorded as experiments/NAME.yaml names what they hold.
    """
    from prefill_router.experiments.published import publish as publish_results

    typer.echo(f"Written: {publish_results(run_dir).parent}")


@app.command(rich_help_panel=STUDIES)
def notebooks() -> None:
    """Execute the committed notebooks, appendix included, again and accept their numbers."""
    from prefill_router.run import refresh_notebooks

    for path in refresh_notebooks():
        typer.echo(path)


@app.command(rich_help_panel=ENCODERS)
def extract(
    table: Annotated[Path, Argument(help="Table with a column question.")],
    out: Directory,
    encoder: Annotated[str, field("encoder", "--encoder", "-e")],
    layers: Annotated[str, field("layers")] = "all",
    poolings: Annotated[str, field("poolings")] = "last,mean",
    max_tokens: Annotated[int, field("max_tokens")] = 0,
    truncation: Annotated[str, field("truncation")] = "error",
    storage: Annotated[str, Option(help="Type on disk: float32 or float16.")] = "float32",
    dtype: Annotated[str, field("dtype")] = "float32",
    device: Device = "cpu",
    engine: Annotated[str, field("engine")] = "local",
    address: Annotated[str, field("address")] = "",
    workers: Annotated[int, Option(help="Encoders of a cluster; 0: all it has room for.")] = 0,
    show_prompt: ShowPrompt = False,
) -> None:
    """Write the pooled prefill states of a table's questions.

    Shard by shard: if it is stopped, the same command goes on, with either engine. Look first at
    what the encoder reads: chat template, system prompt and special tokens. Example:

        prefill-router extract queries.csv states -e path/to/encoder --show-prompt
        prefill-router extract queries.csv states -e path/to/encoder --layers upper --engine ray
    """
    given = dict(locals())
    from prefill_router.extraction import extract as read_states
    from prefill_router.extraction.models import load_tokenizer
    from prefill_router.extraction.prompts import NO_LIMIT, Prompts
    from prefill_router.extraction.sources import resolve
    from prefill_router.labels.tables import checked_cells, filled, read_table, require

    p = validate({n: v for n, v in given.items() if n in Parameters.model_fields}, "options")
    questions = read_table(table)
    require(questions, ["question"], str(table), "an extraction")
    checked_cells(questions, {"question": (filled, "filled in")}, str(table))
    if show_prompt:
        tokenizer = load_tokenizer(resolve(p.encoder))
        prompts = Prompts(tokenizer, p.max_tokens or NO_LIMIT, p.truncation)
        typer.echo(f"{p.encoder} reads {prompts.shown(questions['question'].iloc[0])}")
        return
    states = read_states(
        p.encoder, questions["question"].tolist(), cache_dir=out, storage_dtype=storage,
        max_tokens=p.max_tokens or None, address=p.address or None, workers=workers or None,
        **p.model_dump(include={"layers", "poolings", "truncation", "device", "dtype", "engine"}),
    )  # fmt: skip
    typer.echo(
        f"{out}: {len(states)} questions, {int(states.n_tokens.sum())} tokens, layers "
        f"{states.layers}, poolings {states.poolings}, {states.n_truncated} prompts cut."
    )


@app.command(rich_help_panel=ENCODERS)
def untrained(
    encoder: Annotated[str, Argument(help="zoo/NAME, a directory, or a hub id.")],
    out: Directory,
    seed: Annotated[int, Option(help="Draws the weights.")] = 0,
) -> None:
    """Write an encoder's control: its architecture and tokenizer, random weights.

    What the encoder learned is what it predicts better than its control. Example:

        prefill-router untrained path/to/encoder models/control

    and then -p untrained=models/control for prefill-router run.
    """
    from prefill_router.extraction.models import write_untrained
    from prefill_router.extraction.sources import resolve

    typer.echo(f"Written: {write_untrained(resolve(encoder), out, seed)}")


@zoo_app.command()
def train(names: Names = None, out: Models = None, device: Device = "cpu") -> None:
    """Train models of the zoo from scratch; an interrupted training goes on where it stopped."""
    from prefill_router.extraction.sources import ZOO
    from prefill_router.zoo.recipes import RECIPES
    from prefill_router.zoo.training import train as train_model

    for name in names or ():  # all, before hours go into the first
        check_known("recipe", name, RECIPES)
    for name in names or RECIPES:
        losses = train_model(RECIPES[name], out or ZOO, CACHE, device)
        final = f", last loss {losses[-1]:.3f}" if losses else ""
        typer.echo(f"{(out or ZOO) / name}: done{final}")


@zoo_app.command("labels")
def zoo_labels(device: Device = "cpu") -> None:
    """Ask every target every question of the skills benchmark and write the default labels."""
    from prefill_router.zoo.labelling import write_default_labels

    write_default_labels(Store(CACHE), device)
    typer.echo("The zoo's labels, their manifest and the price table are written.")


@zoo_app.command()
def samples(device: Device = "cpu") -> None:
    """Ask every target the validation and test questions ten times at temperature 1, to measure
    label noise; takes about ten minutes. An interrupted call goes on where it stopped."""
    from prefill_router.zoo.labelling import write_default_samples

    write_default_samples(Store(CACHE), device)
    typer.echo("The zoo's sampled answers and their manifest are written.")


@zoo_app.command()
def queries(out: Table) -> None:
    """Write the skills benchmark, as `collect` reads it."""
    from prefill_router.labels.tables import write_table
    from prefill_router.zoo.skills import benchmark

    write_table(benchmark(), out)


@zoo_app.command()
def serve(
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Serve the zoo's models as an OpenAI-compatible endpoint, on this machine only.

    Good for trying out `collect`; not made for load. Stop it with Ctrl-C.
    """
    from prefill_router.zoo.serving import ZooServer

    with ZooServer(port) as server:
        typer.echo(f"The zoo answers at {server.base_url}")
        server.serve_forever()


@toolkit_app.command()
def pool(
    source: Annotated[Path, Argument(help="The toolkit's YAML of models.")],
    out: Annotated[Path, Argument(help="Loop to write: its targets, with their prices.")],
) -> None:
    """Turn the toolkit's pool of models into the targets of a loop.

    Keys are never copied: each target names the environment variable that holds its own.
    """
    from prefill_router.answers.toolkit import import_pool

    endpoints = import_pool(source, out)
    typer.echo(f"{len(endpoints)} targets written to {out}.")
    for name in sorted({endpoint.key for endpoint in endpoints if endpoint.key}):
        typer.echo(f"Set {name} to the endpoint's key.")


@toolkit_app.command("labels")
def toolkit_labels(
    source: Annotated[Path, Argument(help="A label table, in any layout.")],
    out: Annotated[Path, Argument(help="CSV to write: question, model, isCorrect...")],
) -> None:
    """Write labels as the toolkit reads them."""
    from prefill_router.answers.toolkit import write_toolkit_labels
    from prefill_router.labels import load_labels

    n, left_out = write_toolkit_labels(load_labels(source), out)
    typer.echo(f"{n} labels written to {out}.")
    if left_out:
        typer.echo(f"{left_out} questions left out: not every target was asked them.")
