"""The command that makes label tables of evaluation logs and of public results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prefill_router.cli.common import INCOMPLETE, app, console
from prefill_router.errors import InputError


@app.command(rich_help_panel="The loop")
def labels(
    source: Annotated[
        list[str],
        Argument(help="Logs, or directories of logs; or a clone, after mmlu-pro or zeroeval."),
    ],
    output: Annotated[Path, Option("-o", "--output", help="Table: .parquet, .csv or .csv.gz.")],
    metric: Annotated[
        list[str] | None, Option(help="Metric that says what is right; may be repeated.")
    ] = None,
    threshold: Annotated[
        float | None, Option(help="Least score that is right, for a metric that is not 0 or 1.")
    ] = None,
) -> None:
    """Make a label table of evaluation logs, or of the results in a public repository.

    Logs are those of lm-evaluation-harness (`lm_eval --log_samples --output_path logs`) and of
    Inspect (`inspect eval --log-dir logs`; reading them needs `pip install inspect-ai`). What
    cannot be used is left out, with its remedy (exit code 3). The repositories are MMLU-Pro
    (https://github.com/TIGER-AI-Lab/MMLU-Pro) and ZeroEval (https://github.com/WildEval/ZeroEval).
    Examples:

        prefill-router labels logs -o labels.parquet --metric acc

        prefill-router labels zeroeval path/to/ZeroEval -o labels/zeroeval.parquet
    """
    from prefill_router.labels.sources import logs, mmlu_pro, zeroeval
    from prefill_router.labels.tables import write_table

    report: list[str] = []
    if pool := {"mmlu-pro": mmlu_pro.POOL, "zeroeval": zeroeval.POOL}.get(source[0]):
        if len(source) != 2 or metric or threshold is not None:
            raise InputError(f"{source[0]}: give the directory of a clone, and nothing else.")
        table = pool.read(Path(source[1]), report)
    else:
        table = logs.read_logs([Path(name) for name in source], report, metric or [], threshold)
    write_table(table, output)
    for line in report:  # names in logs are untrusted
        console.print("".join(c if c.isprintable() else " " for c in line), markup=False)
    n = table.nunique()
    typer.echo(f"{output}: labels of {n['model']} targets on {n['query_id']:,} queries.")
    if report and not pool:
        raise typer.Exit(INCOMPLETE)
