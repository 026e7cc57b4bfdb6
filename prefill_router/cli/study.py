"""Commands that run a study, render its book, and extract states."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefill_router.cli.common import Overrides, overrides, plain_errors
from prefill_router.errors import InputError


def run(
    experiment: Annotated[
        Path | None, typer.Argument(help="YAML file of parameters; none for all defaults.")
    ] = None,
    parameter: Overrides = None,
) -> None:
    """Run every notebook on your parameters, into runs/NAME/.

    NAME is the experiment file's. What ran before with the same inputs is kept, so an interrupted
    run goes on where it stopped. `papermill --help-notebook notebooks/01_labels_and_headroom.ipynb`
    lists and explains the parameters; relative paths in them start at the project's directory.
    Example:

        prefill-router run experiments/default.yaml -p encoder=zoo/reader-m -p run_dir=runs/mine
    """
    from prefill_router.run import run_experiment
    from prefill_router.validation import read_mapping

    name = experiment.stem if experiment else "default"
    with plain_errors(f"the run directory (runs/{name} unless run_dir says otherwise)"):
        values = read_mapping(experiment) if experiment else {}
        given = overrides(parameter)
        origins = dict.fromkeys(given, "-p")
        source = str(experiment or "parameters")
        run_dir = run_experiment(values | given, name, source, origins)
    typer.echo(f"{run_dir}: done. Render its book with: prefill-router book {run_dir}")


def book(
    run_dir: Annotated[Path, typer.Argument(help="A run's directory, such as runs/default.")],
    output: Annotated[
        Path | None, typer.Option(help="Where the pages go. [default: RUN_DIR/book]")
    ] = None,
) -> None:
    """Render a run's book: HTML pages that load nothing from another server."""
    from prefill_router.book import build_book, headline_text

    with plain_errors(output or run_dir / "book"):
        index = build_book(run_dir, output)
        typer.echo(headline_text(run_dir))
    typer.echo(f"The book: {index}")


def publish(
    run_dir: Annotated[Path, typer.Argument(help="A finished run's directory, as runs/full.")],
) -> None:
    """Make a run's results the published ones, which the book's heavy chapters show.

    They go to experiments/published/NAME, NAME being the directory's. Paths of this machine are
    recorded as experiments/NAME.yaml names what they hold, if there is such a file.
    """
    from prefill_router.experiments.published import PUBLISHED
    from prefill_router.experiments.published import publish as publish_results
    from prefill_router.project import project_root
    from prefill_router.validation import read_mapping

    name = run_dir.resolve().name
    into, file = project_root() / PUBLISHED / name, project_root() / "experiments" / f"{name}.yaml"
    with plain_errors(into):
        named = read_mapping(file) if file.exists() else {}
        typer.echo(f"Written: {publish_results(run_dir, into, named).parent}")


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
    from prefill_router.experiments.parameters import validate
    from prefill_router.extraction.sources import resolve
    from prefill_router.extraction.streaming import extract as write_states
    from prefill_router.labels.tables import read_table

    with plain_errors(out):
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


def untrained(
    encoder: Annotated[str, typer.Argument(help="zoo/NAME, a directory, or a hub id.")],
    out: Annotated[Path, typer.Argument(help="Directory to write the model into.")],
    seed: Annotated[int, typer.Option(help="Draws the weights.")] = 0,
) -> None:
    """Write an encoder's control: its architecture and tokenizer, random weights.

    What the encoder learned is what it predicts better than its control. Example:

        prefill-router untrained path/to/encoder models/control

    and then -p untrained=models/control for prefill-router run.
    """
    from prefill_router.extraction.sources import resolve
    from prefill_router.extraction.untrained import write_untrained

    with plain_errors(out):
        typer.echo(f"Written: {write_untrained(resolve(encoder), out, seed)}")


def notebooks() -> None:
    """Execute the committed notebooks again on their defaults and accept their numbers."""
    from prefill_router.run import refresh_notebooks

    with plain_errors("runs/refresh or notebooks/"):
        for path in refresh_notebooks():
            typer.echo(path)
