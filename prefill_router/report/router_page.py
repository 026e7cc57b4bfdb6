"""The page about a router that whoever decides reads: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from prefill_router import metrics, policy
from prefill_router.evaluation.comparison import BEST, ORACLE, SINGLE, Evaluation
from prefill_router.evaluation.results import one, select
from prefill_router.evaluation.sentences import QUERIES, format_interval, headline, pivot
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices
from prefill_router.report import plotting
from prefill_router.report.display import Display, table
from prefill_router.router import Router
from prefill_router.router.card import PREDICTED, ROUTED
from prefill_router.router.measurement import evaluate
from prefill_router.router.predictions import Predictions
from prefill_router.storage import atomic_write

HEADS = {
    "router": "asked by",
    "mean cost": f"cost of {QUERIES:,} queries",
    "cost saving": "saving against the dearest",
}
TAUS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
MISTAKES, BENCHMARKS = 12, 8
"""Queries, and benchmarks by name, that are shown at most."""
LONGEST = 400
"""Characters of a question that are shown."""


def write_page(
    router: Router,
    labels: Labels,
    path: str | os.PathLike,
    prices: Prices | None = None,
    n_resamples: int = 2000,
) -> None:
    """Write the page.

    Parameters
    ----------
    router : Router
    labels : Labels
        Of any queries; those that the router was fitted to are left out, see `Router.unseen`.
    path : path-like
        An ``.html`` file.
    prices : Prices, optional
        As for `Router.evaluate`.
    n_resamples : int, default 2000
        Of the bootstrap.
    """
    seen = router.examine(router.unseen(labels), prices)
    found = evaluate(router, seen, split="held-out", n_resamples=n_resamples)
    chosen = router.choices(seen)
    default = chosen[detailed(router)]
    called = f"The router at tau = {router.config.tau:.3g}"
    ours = select(found, router="tolerance").assign(router=called)
    ours = {row.metric: row for row in ours.itertuples()}
    p = {"calibrated": seen.p, "uncalibrated": seen.raw}
    curves = {name: metrics.reliability_curve(q, seen.labels.correct) for name, q in p.items()}
    plotting.style()
    context = {
        "router": router,
        "n": seen.labels.n_queries,
        "left_out": labels.n_queries - seen.labels.n_queries,
        "headline": headline(ours["gap closed"], ours.get("cost saving")),
        "ours": ours,
        "best": one(found, metric="accuracy", router=BEST),
        "detailed": detailed(router),
        "policies": policy_table(router, found),
        "shares": share_table(router, seen, chosen),
        "errors": calibration_table(seen, found),
        "failures": failure_table(seen, default),
        "mistakes": mistakes(router, seen, default),
        "calibration": _picture(partial(plotting.reliability, routers=curves), (4.6, 4.4)),
        "trade_off": None,
    }
    if seen.paid is not None:
        at = seen.evaluation(router.guarantee.best_single, seen.paid, n_resamples=n_resamples)
        shown = {"p": {"tolerance": seen.p}, "expected_cost": seen.expected, "estimates": found}
        context["taus"] = tau_table(router, seen, at)
        context["trade_off"] = _picture(partial(plotting.trade_off, at=at, **shown), (6.4, 4.6))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["interval"] = format_interval
    template = Path(__file__).with_name("router_page.html.j2").read_text(encoding="utf-8")
    with atomic_write(path) as temporary:
        temporary.write_text(environment.from_string(template).render(context), encoding="utf-8")


def detailed(router: Router) -> str:
    """Return the policy whose choices are shown query by query: the default, if it chooses."""
    return "tolerance" if router.guarantee.tau is None else "certified"


def policy_table(router: Router, found: pd.DataFrame) -> Display:
    """Return accuracy, gap closed, cost and saving of every policy and target."""
    called = {
        "argmax": "router: always the likeliest",
        "tolerance": f"router: tau = {router.config.tau:.3g}",
        "certified": "router: by default",
        "utility": "router: utility",
        ORACLE: "oracle, which knew which model answers correctly",
    }
    shown = pivot(found, ["router", "target"], ROUTED).replace({"router": called})
    asked = shown.target.where(shown.router == SINGLE, shown.router)
    return table(shown.drop(columns="target").assign(router=asked).rename(columns=HEADS))


def tau_table(router: Router, seen: Predictions, at: Evaluation) -> Display:
    """Return what each tolerance is worth on the held-out queries."""
    marks = {"certified": router.guarantee.tau, "chosen on validation": router.config.tau}
    taus = sorted({*TAUS, *marks.values()} - {None})
    notes = [", ".join(name for name, at_tau in marks.items() if at_tau == tau) for tau in taus]
    asked = {f"{tau:.3g}": policy.tolerance(seen.p, seen.costs, tau) for tau in taus}
    found = select(at.choices(asked), router=list(asked))
    scales = {metric: scale for metric, scale in ROUTED.items() if metric != "gap closed"}
    shown = pivot(found, ["router"], scales).rename(columns=HEADS | {"router": "tau"})
    return table(shown.assign(**{"": notes}))


def share_table(router: Router, seen: Predictions, chosen: dict[str, np.ndarray]) -> Display:
    """Return who is asked what: each target's share, overall and by benchmark."""
    benchmark, default = seen.labels.benchmark, chosen[detailed(router)]
    names, counts = np.unique(benchmark, return_counts=True)
    names = names[np.argsort(-counts)][:BENCHMARKS]
    parts = [chosen["tolerance"], chosen["certified"], *(default[benchmark == n] for n in names)]
    heads = [f"all, tau = {router.config.tau:.3g}", "all, by default", *map(str, names)]
    k = len(router.targets)
    shares = [[f"{x:.0%}" for x in np.bincount(part, minlength=k) / len(part)] for part in parts]
    frame = pd.DataFrame([router.targets, *shares], ["target", *heads]).T
    return table(frame)  # a benchmark may be called as another column


def calibration_table(seen: Predictions, found: pd.DataFrame) -> Display:
    """Return ranking and calibration by target, and the ECE that chance alone would show."""
    shown = pivot(found[found.router == "calibrated"], ["target"], PREDICTED)
    chance = metrics.chance_calibration_error(seen.p, seen.labels.correct)
    chance = dict(zip(seen.labels.targets, chance, strict=True)) | {"": metrics.macro(chance)}
    shown["ECE by chance"] = [f"{chance[target]:.3f}" for target in shown.target]
    return table(shown.replace({"target": {"": "mean of targets"}}))


def failure_table(seen: Predictions, choice: np.ndarray) -> Display:
    """Return how often the router fails, by benchmark, and how often that could be helped."""
    rows = seen.labels.complete
    correct = seen.labels.correct[rows]
    wrong, helped = correct[np.arange(len(correct)), choice[rows]] == 0, correct.max(axis=1) == 1
    kinds = ("another was right", helped), ("nobody was right", ~helped)
    shares = pd.DataFrame({"wrong": wrong} | {name: wrong & kind for name, kind in kinds})
    grouped = shares.groupby(seen.labels.benchmark[rows])
    shown = grouped.mean().sort_values("another was right", ascending=False)
    shown.insert(0, "queries", grouped.size())
    return table(shown.reset_index(names="benchmark"), formats=dict.fromkeys(shares, ".0%"))


def mistakes(router: Router, seen: Predictions, choice: np.ndarray) -> Display:
    """Return the queries that went most confidently to a wrong target while another was right.

    With each target's result and P(correct), such as ``"right (0.83)"``, and who was asked.
    """
    at, correct = np.arange(len(choice)), seen.labels.correct
    rows = np.flatnonzero((correct[at, choice] == 0) & (correct == 1).any(axis=1))
    rows = rows[np.argsort(-seen.p[rows, choice[rows]], kind="stable")][:MISTAKES]
    correct, targets = correct[rows], list(router.targets)
    outcome = np.where(np.isnan(correct), "not asked", np.where(correct == 1, "right", "wrong"))
    texts = [text[:LONGEST] + "…" * (len(text) > LONGEST) for text in seen.labels.question[rows]]
    cells = np.vectorize("{} ({:.2f})".format, otypes=[object])(outcome, seen.p[rows])
    asked = [f"{targets[k]}: {outcome[i, k]}" for i, k in enumerate(choice[rows])]
    lines = zip(texts, *cells.T, asked, strict=True)
    return table(pd.DataFrame(lines, columns=["question", *targets, "router asks"], dtype=object))


def _picture(draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    """Return a figure as an address that holds it all; as an image its SVG can run nothing."""
    figure, ax = plt.subplots(figsize=size)
    draw(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
