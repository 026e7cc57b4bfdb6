"""Commands of the loop, from labels to a router in use; one YAML file says what they share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefill_router.cli.common import AsJson, Overrides, console, plain_errors, say
from prefill_router.cli.loop_fields import labels_of, router_of, settings_of
from prefill_router.errors import InputError

if TYPE_CHECKING:
    from prefill_router.evaluation.estimates import Estimate
    from prefill_router.router import Router

LoopFile = Annotated[Path, typer.Argument(metavar="LOOP.yaml", help="The loop's file.")]
SHOWN_PROBLEMS = 10
INCOMPLETE = 3
"""Exit code of a collection that has not all its answers."""


def collect(loop: LoopFile, parameter: Overrides = None, as_json: AsJson = False) -> None:
    """Let every target answer every query, grade the answers, and write the label table.

    An answer that is there is never asked, or paid, for again: the same command goes on where it
    stopped. What could not be answered is left empty, and a rerun asks it again (exit code 3).
    """
    from prefill_router.answers.collect import collect_labels
    from prefill_router.answers.generation import Decoding
    from prefill_router.answers.grading import find_grader
    from prefill_router.labels.tables import read_table

    with plain_errors(loop):
        settings = settings_of("collect", loop, parameter)
        if not settings.queries:
            raise InputError(f"{loop}: queries must name a table of queries.")
        found = collect_labels(
            settings.asked, read_table(settings.queries), settings.labels,
            find_grader(settings.grader),
            Decoding(settings.max_new_tokens, settings.temperature, settings.seed),
            prices=settings.price_table(), cap_usd=settings.cap_usd,
            batch_size=settings.batch_size, device=settings.device,
        )  # fmt: skip
    for problem in found.problems[:SHOWN_PROBLEMS]:
        console.print(f"Problem: {problem}", markup=False)
    if len(found.problems) > SHOWN_PROBLEMS:
        console.print(f"... and {len(found.problems) - SHOWN_PROBLEMS} more.")
    grades = found.labels.groupby("model", sort=False)["is_correct"]
    summary = {
        "labels": settings.labels,
        "n_labels": int(grades.count().sum()),
        "n_missing": int(found.labels["is_correct"].isna().sum()),
        "accuracy": {name: float(value) for name, value in grades.mean().dropna().items()},
        "spent_usd": found.spent_usd,
        "uncertain_usd": found.uncertain_usd,
        "problems": found.problems,
    }
    spent = f"{found.spent_usd:.6f} USD spent"
    if found.uncertain_usd:
        spent += f", up to {found.uncertain_usd:.6f} more for answers that were lost"
    say(
        as_json, summary,
        *(f"{name}: {value:.1%} correct" for name, value in summary["accuracy"].items()),
        f"{summary['n_labels']} labels in {settings.labels}, {summary['n_missing']} missing; "
        f"{spent}.",
    )  # fmt: skip
    if summary["n_missing"]:
        raise typer.Exit(INCOMPLETE)


def fit(loop: LoopFile, parameter: Overrides = None, as_json: AsJson = False) -> None:
    """Fit a router to the labels, test it, and save it with its model card."""
    from prefill_router.router import Router

    with plain_errors(loop):
        settings = settings_of("fit", loop, parameter)
        labels = labels_of(loop, settings, settings.target_names)
        router = Router.fit(
            labels, settings.encoder, prices=settings.price_table(), layers=settings.layers,
            dimensions=settings.dimensions, n_seeds=settings.n_seeds,
            keep=(settings.n_seeds + 1) // 2, max_tokens=settings.max_tokens or None,
            truncation=settings.truncation, max_loss=settings.max_loss,
            confidence=settings.confidence, device=settings.device, seed=settings.seed,
        )  # fmt: skip
        router.save_pretrained(settings.router)
    say(
        as_json,
        {"router": settings.router, "targets": router.targets, **_results(router.metrics)},
        *_summary(router, router.metrics),
        f"Saved: {settings.router}",
    )


def evaluate(loop: LoopFile, parameter: Overrides = None, as_json: AsJson = False) -> None:
    """Evaluate a saved router on labels of queries that it was not fitted to.

    Of the labels that it was fitted to, these are its test queries; of others (`-p labels=FILE`),
    those with other questions. The others are left out, and counted.
    """
    with plain_errors(loop):
        settings = settings_of("evaluate", loop, parameter)
        router = router_of(loop, settings, parameter)
        labels = labels_of(loop, settings, router.targets)
        unseen = router.unseen(labels)
        metrics = router.evaluate(unseen, settings.price_table(), seed=settings.seed)
    n, n_left_out = unseen.n_queries, labels.n_queries - unseen.n_queries
    say(
        as_json,
        {"n": n, "n_left_out": n_left_out, **_results(metrics)},
        f"{n:,} queries; {n_left_out:,} that the router was fitted to are left out.",
        *_summary(router, metrics),
    )


def route(
    loop: LoopFile,
    query: Annotated[list[str], typer.Argument(help="One query or more.")],
    parameter: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say which target to ask, and why."""
    with plain_errors(loop):
        settings = settings_of("route", loop, parameter)
        router = router_of(loop, settings, parameter)
        routes = router.route_many(
            query, settings.policy, tau=settings.tau, lam=settings.lam, budget=settings.budget,
            accuracy=settings.accuracy, exclude=settings.exclude,
        )  # fmt: skip
    found = [{"query": text, **asdict(one)} for text, one in zip(query, routes, strict=True)]
    lines = [
        f"{one.choice or 'nobody'}: {one.why}\n"
        + ", ".join(f"P({name}) = {p:.3f}" for name, p in one.p.items())
        for one in routes
    ]
    say(as_json, {"routes": found}, *lines)


def report(loop: LoopFile, parameter: Overrides = None, as_json: AsJson = False) -> None:
    """Write a page about a router that needs nothing else: costs, guarantee, mistakes."""
    from prefill_router.loop.report_page import write_page

    with plain_errors(loop):
        settings = settings_of("report", loop, parameter)
        router = router_of(loop, settings, parameter)
        labels = labels_of(loop, settings, router.targets)
        write_page(router, labels, settings.report, settings.price_table())
    say(as_json, {"report": settings.report}, f"Written: {settings.report}")


def add_target(
    loop: LoopFile,
    name: Annotated[str, typer.Argument(help="The new target, as the labels call it.")],
    out: Annotated[Path, typer.Argument(help="Directory of the router that knows it.")],
    parameter: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Teach a saved router a new target from a few labels, and say how sure it is.

    The labels (`-p labels=FILE`) need hold no other target.
    """
    with plain_errors(loop):
        settings = settings_of("add-target", loop, parameter)
        labels = labels_of(loop, settings, [name], at_least=1)
        before = router_of(loop, settings, parameter)
        n, n_seen = labels.n_queries, int(before.is_seen(labels).sum())
        router, metrics = before.add_target(labels, settings.price_table(), seed=settings.seed)
        router.save_pretrained(out)
    counts = f"{n:,} queries; the router was fitted to {n_seen:,} of them"
    if n_seen:
        counts += ", of which it predicts the other targets too well: better label new ones"
    say(
        as_json,
        {
            "router": str(out), "targets": router.targets, "n": n, "n_seen": n_seen,
            **_results(metrics),
        },
        f"{counts}.",
        *_sureness(name, metrics),
        f"Saved: {out}",
    )  # fmt: skip


COMMANDS = {
    "collect": collect,
    "fit": fit,
    "evaluate": evaluate,
    "route": route,
    "report": report,
    "add-target": add_target,
}


def _results(metrics: list[Estimate]) -> dict:
    rows = [{k: None if v != v else v for k, v in asdict(row).items()} for row in metrics]
    return {"metrics": rows}


def _summary(router: Router, metrics: list[Estimate]) -> list[str]:
    """Return results of policies, as a table, and of probabilities, and the guarantee."""
    import pandas as pd

    from prefill_router.report import format_interval

    promise = router.guarantee
    default = f"always {promise.best_single}" if promise.tau is None else f"tau {promise.tau:.3g}"
    called = {
        "tolerance": f"tau {router.config.tau:.3g}, of validation",
        "certified": f"default: {default}",
    }
    overall = [row for row in metrics if not row.target]
    table = {
        metric: {
            called.get(row.router, row.router): format_interval(row)
            for row in overall
            if row.metric == metric
        }
        for metric in ("accuracy", "gap closed", "cost saving")
    }
    probabilities = [
        f"{row.metric} {format_interval(row, 'value')}"
        for row in overall
        if row.router == "calibrated" and row.metric in ("AUC", "ECE")
    ]
    return [
        pd.DataFrame({metric: values for metric, values in table.items() if values}).to_string(),
        f"Predicted probabilities: {', '.join(probabilities)}.",
        router.promise,
    ]


def _sureness(name: str, metrics: list[Estimate]) -> list[str]:
    from prefill_router.report import format_interval

    return [
        f"{row.metric} of {row.router} for {name}: {format_interval(row, 'value')} (n = {row.n})"
        for row in metrics
    ]
