"""Commands of the loop, from labels to a router in use; all read one YAML file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefill_router.cli.common import DATA, SAVED, Said, console, loop_command
from prefill_router.config import Loop
from prefill_router.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from prefill_router.labels import Labels
    from prefill_router.router import Router

SHOWN_PROBLEMS = 10
SHOWN_ANSWER = 60  # characters, of an answer's end


@loop_command(
    "queries labels targets prices grader max_new_tokens temperature",
    "batch_size cap_usd device seed",
)
def collect(
    p: Loop,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="Grade the recorded answers again; ask nobody.")
    ] = False,
) -> Said:
    """Let every target answer every query, grade the answers, and write the label table.

    Resumable: completed answers are never requested, or paid for, again. What could not be answered
    is left empty, and a rerun asks it again (exit code 3). Shows some graded answers per target:
    read them, for labels are all that a router learns from.
    """
    from prefill_router.answers.collect import collect_labels, count_faults
    from prefill_router.answers.generation import Decoding
    from prefill_router.answers.grading import find_grader
    from prefill_router.answers.targets import LocalTarget
    from prefill_router.labels.tables import read_table

    if not p.queries:
        raise InputError("queries must name a table of queries.")
    done = collect_labels(
        [t.name if isinstance(t, LocalTarget) else t for t in p.targets], read_table(p.queries),
        p.labels, find_grader(p.grader),
        Decoding(p.max_new_tokens, p.temperature, p.seed), prices=p.price_table(),
        cap_usd=p.cap_usd, regrade=regrade, batch_size=p.batch_size, device=p.device,
    )  # fmt: skip
    for problem in done.problems[:SHOWN_PROBLEMS]:
        console.print(f"Problem: {problem}", markup=False)
    if (more := len(done.problems) - SHOWN_PROBLEMS) > 0:
        console.print(f"... and {more} more.")
    grades = done.labels.groupby("model", sort=False)["is_correct"]
    faults = count_faults(done.graded)
    examples = done.graded.drop_duplicates(["model", "is_correct", "fault"])
    examples = examples.assign(answer=examples["answer"].str[-SHOWN_ANSWER:])
    found = {
        "labels": p.labels,
        "n_labels": int(grades.count().sum()),
        "n_missing": int(done.labels["is_correct"].isna().sum()),
        "accuracy": grades.mean().dropna().to_dict(),
        "faults": faults.to_dict("index"),
        "examples": examples.to_dict("records"),
        "spent_usd": done.spent_usd,
        "uncertain_usd": done.uncertain_usd,
        "problems": done.problems,
    }
    lost = f", up to {done.uncertain_usd:.6f} more for answers that were lost"
    shown = examples.assign(answer=examples["answer"].map(repr)).to_string(index=False)
    return found, [
        *(f"{name}: {value:.1%} correct" for name, value in found["accuracy"].items()),
        f"Answers whose grade is doubtful:\n{faults.to_string()}",
        f"Graded, for example:\n{shown}",
        f"{found['n_labels']} labels in {p.labels}, {found['n_missing']} missing; "
        f"{done.spent_usd:.6f} USD spent{lost * bool(done.uncertain_usd)}.",
    ]


@loop_command(
    DATA,
    "encoder layers max_tokens truncation device",
    "head dimensions n_seeds max_loss confidence router",
)
def fit(p: Loop) -> Said:
    """Fit a router to the labels, test it, and save it with its model card."""
    import numpy as np

    from prefill_router.extraction import extract
    from prefill_router.labels.costs import expected_costs, has_costs
    from prefill_router.router import Router

    data, prices = _labels(p, p.target_names), p.price_table()
    of = f"{p.labels}: {data.summary}."
    if console.is_terminal:  # before hours go into reading prompts
        console.print(of, markup=False)
    if has_costs(data, prices):  # a missing price is named before any prompt is read
        expected_costs(data, prices, np.zeros(data.n_queries), np.arange(data.n_queries))
    states = extract(
        p.encoder, data.question.tolist(), layers=p.layers, max_tokens=p.max_tokens or None,
        truncation=p.truncation, device=p.device,
    )  # fmt: skip
    made = Router.fit(
        data, states, prices=prices, keep=min(5, p.n_seeds),
        **p.model_dump(include={"head", "dimensions", "n_seeds", "max_loss", "confidence",
                                "device", "seed"}),
    )  # fmt: skip
    made.save_pretrained(p.router)
    found, lines = _results(made, made.metrics)
    found = {"router": p.router, "targets": made.targets, "n_truncated": states.n_truncated} | found
    notes = filter(None, [states.truncation_note])
    return found, [of, *lines, *notes, f"Saved: {p.router}"]


@loop_command(DATA, SAVED)
def evaluate(p: Loop) -> Said:
    """Evaluate a saved router on labels of queries that it was not fitted to.

    Of the labels that it was fitted to, these are its test queries; of others (`-p labels=FILE`),
    those with other questions. The others are left out, and counted.
    """
    saved = _router(p)
    data = _labels(p, saved.targets)
    unseen = saved.unseen(data)
    n, n_left_out = unseen.n_queries, data.n_queries - unseen.n_queries
    metrics = saved.evaluate(unseen, p.price_table(), seed=p.seed)
    found, lines = _results(saved, metrics)
    counts = f"{n:,} queries; {n_left_out:,} that the router was fitted to are left out."
    return {"n": n, "n_left_out": n_left_out, **found}, [counts, *lines]


@loop_command(SAVED, "policy tau lam budget accuracy exclude")
def route(p: Loop, query: Annotated[list[str], typer.Argument(help="One query or more.")]) -> Said:
    """Say which target to ask, and why."""
    chosen_by = p.model_dump(include={"policy", "tau", "lam", "budget", "accuracy", "exclude"})
    routes = _router(p).route_many(query, **chosen_by)
    found = [{"query": text, **asdict(one)} for text, one in zip(query, routes, strict=True)]
    return {"routes": found}, [
        f"{one.choice or 'nobody'}: {one.why}\n"
        + ", ".join(f"P({name}) = {p:.3f}" for name, p in one.p.items())
        for one in routes
    ]


@loop_command(DATA, SAVED, "report")
def report(p: Loop) -> Said:
    """Write a page about a router that needs nothing else: costs, guarantee, mistakes."""
    from prefill_router.report.router_page import write_page

    saved = _router(p)
    data = _labels(p, saved.targets)
    write_page(saved, data, p.report, p.price_table())
    return {"report": p.report}, [f"Written: {p.report}"]


@loop_command(DATA, SAVED)
def add_target(
    p: Loop,
    name: Annotated[str, typer.Argument(help="The new target, as the labels call it.")],
    out: Annotated[Path, typer.Argument(help="Directory of the router that knows it.")],
) -> Said:
    """Teach a saved router a new target from a few labels, and say how sure it is.

    The labels (`-p labels=FILE`) need hold no other target.
    """
    from prefill_router.evaluation.results import records
    from prefill_router.evaluation.sentences import format_interval

    data, before = _labels(p, [name], at_least=1), _router(p)
    n, n_seen = data.n_queries, int(before.is_seen(data).sum())
    wider, metrics = before.add_target(data, p.price_table(), seed=p.seed)
    wider.save_pretrained(out)
    better = ", of which it predicts the other targets too well: better label new ones"
    found = {"router": str(out), "targets": wider.targets, "n": n, "n_seen": n_seen}
    return found | {"metrics": records(metrics)}, [
        f"{n:,} queries; the router was fitted to {n_seen:,} of them{better * bool(n_seen)}.",
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


def _labels(p: Loop, targets: list[str], at_least: int = 2) -> Labels:
    from prefill_router import zoo
    from prefill_router.labels import load_labels

    source = str(zoo.LABELS) if p.labels == "zoo" else p.labels
    if not source.startswith("hub:"):
        _made_before(source, "collect", "labels")
    return load_labels(source, targets, p.n_queries, p.seed, at_least)


def _router(p: Loop) -> Router:
    """Load a router, its encoder from where it was, or where the command line says."""
    from prefill_router.router import Router

    if "/" not in p.router:  # nor is it a hub's name
        _made_before(p.router, "fit", "router")
    return Router.from_pretrained(p.router, encoder=p.encoder, device=p.device)


def _results(router: Router, metrics: pd.DataFrame) -> Said:
    """Return results of policies and of probabilities, as tables for people, and the guarantee."""
    from prefill_router.evaluation.results import records
    from prefill_router.evaluation.sentences import pivot
    from prefill_router.router.card import PREDICTED, ROUTED

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
