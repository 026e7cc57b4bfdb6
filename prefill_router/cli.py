"""The command line: run a study, render its book, extract states, collect labels, train the zoo."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from prefill_router.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Predict which language model will answer right, from another model's prefill states.",
)
zoo_app = typer.Typer(no_args_is_help=True, help="Make the embedded models and labels again.")
app.add_typer(zoo_app, name="zoo")
console = Console(stderr=True, highlight=False, soft_wrap=True)

Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda..., or auto.")]


@contextmanager
def _plain_errors(output: str | Path) -> Iterator[None]:
    """Turn what can go wrong while `output` is written into one sentence, and an exit code."""
    try:
        yield
    except InputError as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(2) from None
    except OSError as error:
        console.print(f"Error: {_disk_error(error, output)}", markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("Stopped. Finished parts are kept; run again to go on.", markup=False)
        raise typer.Exit(130) from None


def _disk_error(error: OSError, output: str | Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of which a write does not name its file
        return (
            f"{error.strerror}, for {error.filename or output}. Finished parts are kept: free "
            "space there and run again."
        )
    return f"{error}. Finished parts are kept; run again."


@app.command()
def run(
    experiment: Annotated[
        Path | None, typer.Argument(help="YAML file of parameters; none for all defaults.")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="One more, as name=value; overrides the file's."),
    ] = None,
) -> None:
    """Run every notebook on your parameters, into runs/NAME/.

    NAME is the experiment file's. What ran before with the same inputs is kept, so an interrupted
    run goes on where it stopped. Example:

        prefill-router run experiments/default.yaml -p encoder=zoo/reader-m -p run_dir=runs/mine
    """
    from prefill_router.experiment import run_experiment
    from prefill_router.parameters import read_experiment

    name = experiment.stem if experiment else "default"
    with _plain_errors(f"the run directory (runs/{name} unless run_dir says otherwise)"):
        values = read_experiment(experiment) if experiment else {}
        given = dict(_name_and_value(text) for text in parameter or [])
        origins = dict.fromkeys(given, "-p")
        source = str(experiment or "parameters")
        run_dir = run_experiment(values | given, name, source, origins)
    typer.echo(f"{run_dir}: done. Render its book with: prefill-router book {run_dir}")


def _name_and_value(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"-p {text}: write name=value.")
    try:
        return name.strip(), yaml.safe_load(value) if value else ""
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise InputError(f"-p {text}: {error}") from None


@app.command()
def book(
    run_dir: Annotated[Path, typer.Argument(help="A run's directory, such as runs/default.")],
    output: Annotated[
        Path | None, typer.Option(help="Where the pages go. [default: RUN_DIR/book]")
    ] = None,
) -> None:
    """Render a run's book: HTML pages that load nothing from another server."""
    from prefill_router.book import build_book, headline_text

    with _plain_errors(output or run_dir / "book"):
        index = build_book(run_dir, output)
        typer.echo(headline_text(run_dir))
    typer.echo(f"The book: {index}")


@app.command()
def publish(
    run_dir: Annotated[Path, typer.Argument(help="A finished run's directory, as runs/full.")],
) -> None:
    """Make a run's results the published ones, which the book's heavy chapters show.

    They go to experiments/published/NAME, NAME being the directory's.
    """
    from prefill_router.project import project_root
    from prefill_router.published import PUBLISHED
    from prefill_router.published import publish as publish_results

    into = project_root() / PUBLISHED / run_dir.name
    with _plain_errors(into):
        typer.echo(f"Written: {publish_results(run_dir, into).parent}")


@app.command()
def extract(
    table: Annotated[Path, typer.Argument(help="Table with a column question.")],
    out: Annotated[Path, typer.Argument(help="Directory to write the activations into.")],
    encoder: Annotated[
        str, typer.Option("--encoder", "-e", help="zoo/NAME, a directory, or a hub id.")
    ],
    layers: Annotated[str, typer.Option(help="all, upper (half), or numbers: 0,12,24.")] = "all",
    poolings: Annotated[str, typer.Option(help="Out of last, mean, user_mean.")] = "last,mean",
    max_tokens: Annotated[int, typer.Option(help="Longest prompt; 0: what it can read.")] = 0,
    truncation: Annotated[
        str, typer.Option(help="Longer ones: error, or cut left, right.")
    ] = "error",
    storage: Annotated[str, typer.Option(help="Type on disk: float32 or float16.")] = "float32",
    dtype: Annotated[str, typer.Option(help="Precision: float32, bfloat16, float16.")] = "float32",
    device: Annotated[
        str, typer.Option(help="cpu, cuda..., auto, or spread over all that there is.")
    ] = "cpu",
    engine: Annotated[
        str, typer.Option(help="local: this process; ray: workers on a cluster.")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="Ray cluster. [default: RAY_ADDRESS, else one of this machine]")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Encoders at work; 0: as many as the cluster has room for.")
    ] = 0,
) -> None:
    """Write the pooled prefill states of a table's questions.

    Shard by shard: if it is stopped, the same command goes on, with either engine. Example:

        prefill-router extract queries.csv states -e path/to/encoder --layers upper --engine ray
    """
    from prefill_router.models import resolve
    from prefill_router.parameters import validate
    from prefill_router.streaming import extract as write_states
    from prefill_router.tables import read_table

    with _plain_errors(out):
        p = validate(
            {"encoder": encoder, "layers": layers, "poolings": poolings, "max_tokens": max_tokens,
             "truncation": truncation, "dtype": dtype, "device": device, "engine": engine},
            "options",
        )  # fmt: skip
        questions = read_table(table)
        if "question" not in questions:
            raise InputError(f"{table} lacks the column question; there are {list(questions)}.")
        states = write_states(
            resolve(p.encoder), questions["question"].tolist(), out, layers=p.layers,
            poolings=p.poolings, max_tokens=p.max_tokens or None, truncation=p.truncation,
            storage_dtype=storage, device=p.device, dtype=p.dtype, engine=p.engine,
            address=address or None, workers=workers or None,
        )  # fmt: skip
    typer.echo(
        f"{out}: {states.n_queries} questions, {int(states.n_tokens.sum())} tokens, layers "
        f"{states.layers}, poolings {states.poolings}, {states.n_truncated} prompts cut."
    )


@app.command()
def collect(
    queries: Annotated[
        Path, typer.Argument(help="Table with query_id, question, benchmark and reference.")
    ],
    out: Annotated[Path, typer.Argument(help="Label table to write: .parquet, .csv or .csv.gz.")],
    target: Annotated[
        list[str], typer.Option("--target", "-t", help="A model: zoo/NAME, a directory, a hub id.")
    ],
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 256,
    device: Device = "cpu",
) -> None:
    """Let local models answer questions, grade them, and write the label table.

    Answers are greedy and right if they equal the reference after normalising. An interrupted
    collection goes on where it stopped. Example:

        prefill-router collect queries.csv labels.parquet -t zoo/gpt2-a -t path/to/model
    """
    from prefill_router.collect import Decoding, collect_labels
    from prefill_router.tables import read_table

    with _plain_errors(out):
        labels = collect_labels(
            target, read_table(queries), out, decoding=Decoding(max_new_tokens),
            batch_size=batch_size, device=device,
        )  # fmt: skip
    typer.echo(labels.groupby("model", sort=False)[["is_correct", "output_tokens"]].mean().round(3))
    typer.echo(f"{len(labels)} labels written to {out}.")


@app.command()
def notebooks() -> None:
    """Execute the committed notebooks again on their defaults and accept their numbers."""
    from prefill_router.experiment import refresh_notebooks

    with _plain_errors("runs/refresh or notebooks/"):
        for path in refresh_notebooks():
            typer.echo(path)


@zoo_app.command()
def train(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to train, such as reader-m; none for all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where they go. [default: the package]")] = None,
    device: Device = "cpu",
) -> None:
    """Train models of the zoo from scratch; an interrupted training goes on where it stopped."""
    from prefill_router.errors import did_you_mean
    from prefill_router.models import ZOO
    from prefill_router.zoo.recipes import RECIPES
    from prefill_router.zoo.training import train as train_model

    with _plain_errors(out or ZOO):
        for name in names or ():  # all, before hours go into the first
            if name not in RECIPES:
                raise InputError(f"There is no recipe {name!r}.{did_you_mean(name, RECIPES)}")
        for name in names or RECIPES:
            target = out or ZOO
            losses = train_model(RECIPES[name], target, Path(".cache") / "zoo", device)
            final = f", last loss {losses[-1]:.3f}" if losses else ""
            typer.echo(f"{target / name}: done{final}")


@zoo_app.command()
def labels(device: Device = "cpu") -> None:
    """Ask every target every question of the skills benchmark and write the default labels."""
    from prefill_router.storage import Store
    from prefill_router.zoo.labelling import write_default_labels

    cache = Path(".cache") / "zoo"
    with _plain_errors(cache):
        write_default_labels(Store(cache), device)
    typer.echo("The zoo's labels, their manifest and the price table are written.")


@zoo_app.command()
def samples(device: Device = "cpu") -> None:
    """Ask every target the validation and test questions ten times at temperature 1, for labels'
    noise; takes about ten minutes. An interrupted call goes on where it stopped."""
    from prefill_router.storage import Store
    from prefill_router.zoo.sampling import write_default_samples

    cache = Path(".cache") / "zoo"
    with _plain_errors(cache):
        write_default_samples(Store(cache), device)
    typer.echo("The zoo's sampled answers and their manifest are written.")


@zoo_app.command()
def queries(
    out: Annotated[Path, typer.Argument(help="Table to write: .parquet, .csv or .csv.gz.")],
) -> None:
    """Write the skills benchmark, as `collect` reads it."""
    from prefill_router.tables import write_table
    from prefill_router.zoo.skills import benchmark

    with _plain_errors(out):
        write_table(benchmark(), out)


if __name__ == "__main__":
    sys.exit(app())
