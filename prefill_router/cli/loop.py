"""Commands of the loop, from labels to a router in use; all read one YAML file.

The keyword-only parameters of a command are the fields that it reads.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefill_router.cli.common import console, loop_command
from prefill_router.config import price_table, target_names
from prefill_router.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from prefill_router.labels import Labels
    from prefill_router.router import Router

Said = tuple[dict[str, Any], list[str]]
SHOWN_PROBLEMS = 10


@loop_command
def collect(
    *, queries, labels, targets, prices, grader, max_new_tokens, temperature, batch_size, cap_usd,
    device, seed,
) -> Said:  # fmt: skip
    """Let every target answer every query, grade the answers, and write the label table.

    Resumable: completed answers are never requested, or paid for, again. What could not be answered
    is left empty, and a rerun asks it again (exit code 3).
    """
    from prefill_router.answers.collect import collect_labels
    from prefill_router.answers.generation import Decoding
    from prefill_router.answers.grading import find_grader
    from prefill_router.answers.targets import LocalTarget
    from prefill_router.labels.tables import read_table

    if not queries:
        raise InputError("queries must name a table of queries.")
    done = collect_labels(
        [target.name if isinstance(target, LocalTarget) else target for target in targets],
        read_table(queries), labels, find_grader(grader),
        Decoding(max_new_tokens, temperature, seed), prices=price_table(targets, prices),
        cap_usd=cap_usd, batch_size=batch_size, device=device,
    )  # fmt: skip
    for problem in done.problems[:SHOWN_PROBLEMS]:
        console.print(f"Problem: {problem}", markup=False)
    if (more := len(done.problems) - SHOWN_PROBLEMS) > 0:
        console.print(f"... and {more} more.")
    grades = done.labels.groupby("model", sort=False)["is_correct"]
    found = {
        "labels": labels,
        "n_labels": int(grades.count().sum()),
        "n_missing": int(done.labels["is_correct"].isna().sum()),
        "accuracy": grades.mean().dropna().to_dict(),
        "spent_usd": done.spent_usd,
        "uncertain_usd": done.uncertain_usd,
        "problems": done.problems,
    }
    spent = f"{done.spent_usd:.6f} USD spent"
    if done.uncertain_usd:
        spent += f", up to {done.uncertain_usd:.6f} more for answers that were lost"
    return found, [
        *(f"{name}: {value:.1%} correct" for name, value in found["accuracy"].items()),
        f"{found['n_labels']} labels in {labels}, {found['n_missing']} missing; {spent}.",
    ]


@loop_command
def fit(
    *, labels, n_queries, targets, prices, encoder, layers, max_tokens, truncation, head,
    dimensions, n_seeds, max_loss, confidence, router, device, seed,
) -> Said:  # fmt: skip
    """Fit a router to the labels, test it, and save it with its model card."""
    import numpy as np

    from prefill_router.extraction import extract
    from prefill_router.labels.costs import expected_costs, has_costs
    from prefill_router.router import Router

    data = _labels(labels, target_names(targets), n_queries, seed)
    costs = price_table(targets, prices)
    if has_costs(data, costs):  # a missing price is named before any prompt is read
        expected_costs(data, costs, np.zeros(data.n_queries), np.arange(data.n_queries))
    states = extract(
        encoder, data.question.tolist(), layers=layers, max_tokens=max_tokens or None,
        truncation=truncation, device=device,
    )  # fmt: skip
    made = Router.fit(
        data, states, head=head, prices=costs, dimensions=dimensions, n_seeds=n_seeds,
        keep=min(5, n_seeds), max_loss=max_loss, confidence=confidence, device=device, seed=seed,
    )  # fmt: skip
    made.save_pretrained(router)
    found, lines = _results(made, made.metrics)
    return {"router": router, "targets": made.targets, **found}, [*lines, f"Saved: {router}"]


@loop_command
def evaluate(*, labels, n_queries, targets, prices, router, device, seed, encoder=None) -> Said:
    """Evaluate a saved router on labels of queries that it was not fitted to.

    Of the labels that it was fitted to, these are its test queries; of others (`-p labels=FILE`),
    those with other questions. The others are left out, and counted.
    """
    saved = _router(router, encoder, device)
    data = _labels(labels, saved.targets, n_queries, seed)
    unseen = saved.unseen(data)
    n, n_left_out = unseen.n_queries, data.n_queries - unseen.n_queries
    metrics = saved.evaluate(unseen, price_table(targets, prices), seed=seed)
    found, lines = _results(saved, metrics)
    counts = f"{n:,} queries; {n_left_out:,} that the router was fitted to are left out."
    return {"n": n, "n_left_out": n_left_out, **found}, [counts, *lines]


@loop_command
def route(
    query: Annotated[list[str], typer.Argument(help="One query or more.")],
    *, router, device, policy, tau, lam, budget, accuracy, exclude, encoder=None,
) -> Said:  # fmt: skip
    """Say which target to ask, and why."""
    routes = _router(router, encoder, device).route_many(
        query, policy, tau=tau, lam=lam, budget=budget, accuracy=accuracy, exclude=exclude
    )
    found = [{"query": text, **asdict(one)} for text, one in zip(query, routes, strict=True)]
    return {"routes": found}, [
        f"{one.choice or 'nobody'}: {one.why}\n"
        + ", ".join(f"P({name}) = {p:.3f}" for name, p in one.p.items())
        for one in routes
    ]


@loop_command
def report(
    *, labels, n_queries, targets, prices, router, report, device, seed, encoder=None
) -> Said:  # fmt: skip
    """Write a page about a router that needs nothing else: costs, guarantee, mistakes."""
    from prefill_router.report.router_page import write_page

    saved = _router(router, encoder, device)
    data = _labels(labels, saved.targets, n_queries, seed)
    write_page(saved, data, report, price_table(targets, prices))
    return {"report": report}, [f"Written: {report}"]


@loop_command
def add_target(
    name: Annotated[str, typer.Argument(help="The new target, as the labels call it.")],
    out: Annotated[Path, typer.Argument(help="Directory of the router that knows it.")],
    *, labels, n_queries, targets, prices, router, device, seed, encoder=None,
) -> Said:  # fmt: skip
    """Teach a saved router a new target from a few labels, and say how sure it is.

    The labels (`-p labels=FILE`) need hold no other target.
    """
    from prefill_router.evaluation.results import records
    from prefill_router.evaluation.sentences import format_interval

    data = _labels(labels, [name], n_queries, seed, at_least=1)
    before = _router(router, encoder, device)
    n, n_seen = data.n_queries, int(before.is_seen(data).sum())
    wider, metrics = before.add_target(data, price_table(targets, prices), seed=seed)
    wider.save_pretrained(out)
    counts = f"{n:,} queries; the router was fitted to {n_seen:,} of them"
    if n_seen:
        counts += ", of which it predicts the other targets too well: better label new ones"
    found = {"router": str(out), "targets": wider.targets, "n": n, "n_seen": n_seen}
    return found | {"metrics": records(metrics)}, [
        f"{counts}.",
        *(
            f"{row.metric} of {row.router}{row.versus and f' versus {row.versus}'} for {name}: "
            f"{format_interval(row, 'value')} (n = {row.n})"
            for row in metrics.itertuples()
        ),
        f"Saved: {out}",
    ]


def _made_before(path: str, command: str, field: str) -> None:
    """Say which command makes a file that is not there."""
    if not Path(path).exists():
        raise InputError(
            f"{path}: no such file or directory. `prefill-router {command} LOOP.yaml` writes it, "
            f"or -p {field}=PATH names another."
        )


def _labels(
    source: str, targets: list[str], n_queries: int, seed: int, at_least: int = 2
) -> Labels:
    from prefill_router import zoo
    from prefill_router.labels import load_labels

    source = str(zoo.LABELS) if source == "zoo" else source
    if not source.startswith("hub:"):
        _made_before(source, "collect", "labels")
    return load_labels(source, targets, n_queries, seed, at_least)


def _router(directory: str, encoder: str | None, device: str) -> Router:
    """Load a router, its encoder from where it was, or where the command line says."""
    from prefill_router.router import Router

    if "/" not in directory:  # nor is it a hub's name
        _made_before(directory, "fit", "router")
    return Router.from_pretrained(directory, encoder=encoder, device=device)


def _results(router: Router, metrics: pd.DataFrame) -> Said:
    """Return results of policies and of probabilities, as tables for people, and the guarantee."""
    from prefill_router.evaluation.results import records
    from prefill_router.router.card import PREDICTED, ROUTED, pivot

    promise = router.guarantee
    default = f"always {promise.best_single}" if promise.tau is None else f"tau {promise.tau:.3g}"
    called = {
        "tolerance": f"tau {router.config.tau:.3g}, of validation",
        "certified": f"default: {default}",
    }
    overall = metrics[metrics.target == ""].replace({"router": called})
    shares = {metric: scale for metric, scale in ROUTED.items() if scale == "%"}
    tables = [pivot(overall, ["router"], scales) for scales in (shares, PREDICTED)]
    lines = [*(table.to_string(index=False) for table in tables), router.promise]
    return {"metrics": records(metrics)}, lines
