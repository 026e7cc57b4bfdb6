"""The page about a router that whoever decides reads: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from prefill_router import policy
from prefill_router.evaluation import metrics
from prefill_router.evaluation.choices import evaluate_choices
from prefill_router.evaluation.estimates import Estimate, find, pick
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices
from prefill_router.report import QUERIES, format_interval, headline, plotting
from prefill_router.report.display import Display, bullets, query_cards, table
from prefill_router.report.style import style
from prefill_router.report.trade_off import trade_off
from prefill_router.router import Router
from prefill_router.router.evaluation import evaluate, rules_of
from prefill_router.router.examiner import Examined
from prefill_router.storage import atomic_write

TAUS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
MISTAKES = 12
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
    results = evaluate(
        router.parts, seen.labels, router.config.tau, seen.raw, seen.p, seen.expected, seen.paid,
        "held-out", n_resamples, 0,
    )  # fmt: skip
    style()
    context = {
        "router": router,
        "n": seen.labels.n_queries,
        "left_out": labels.n_queries - seen.labels.n_queries,
        "findings": _html(findings(router, results)),
        "trade_off": None
        if seen.paid is None
        else _picture(lambda ax: _trade_off(ax, seen, results)),
        "policies": _html(policy_table(router, results)),
        "taus": _html(tau_table(router, seen, n_resamples)),
        "shares": _html(share_table(router, seen)),
        "calibration": _picture(lambda ax: _reliability(ax, seen), (4.6, 4.4)),
        "errors": _html(calibration_table(results, seen)),
        "mistakes": _html(mistakes(router, seen)),
        "failures": _html(failure_table(router, seen)),
        "setting": setting(router),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = Path(__file__).with_name("report_page.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(context)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def findings(router: Router, results: list[Estimate]) -> Display:
    """Return the few sentences to take away."""
    gap, saving = (
        row and replace(row, router=f"The router at tau = {router.config.tau:.3g}")
        for row in (find(results, m, "tolerance") for m in ("gap closed", "cost saving"))
    )
    best, ours = (pick(results, "accuracy", name) for name in ("best single target", "tolerance"))
    tau = router.config.tau
    return bullets(
        headline(gap, saving),
        f"With tau = {tau:.3g}, chosen on validation queries, accuracy is {format_interval(ours)}; "
        f"of the best single target ({router.guarantee.best_single}) it is "
        f"{format_interval(best)}.",
        router.promise,
        f"By default {default(router)}. tau = {tau:.3g} is no promise"
        + (", and loses accuracy here." if gap and gap.upper < 0 else "."),
    )


def default(router: Router) -> str:
    """Return what the router does unless it is told otherwise."""
    promise = router.guarantee
    if promise.tau is None:
        return f"{promise.best_single} is always asked, for no tau is certified"
    return f"tau is {promise.tau:.3g}, the certified one"


def _detailed(router: Router) -> str:
    """Return the policy whose choices are shown query by query: the default, if it chooses."""
    return "tolerance" if router.guarantee.tau is None else "certified"


def setting(router: Router) -> str:
    """Return the words for the policy whose choices are shown query by query."""
    if _detailed(router) == "certified":
        return f"with tau = {router.guarantee.tau:.3g}, as it is by default"
    return (
        f"with tau = {router.config.tau:.3g}, chosen on validation queries, for by default one "
        "target is always asked"
    )


def policy_table(router: Router, results: list[Estimate]) -> Display:
    """Return accuracy, gap closed, cost and saving of every policy and target."""
    called = {
        "argmax": "router: always the likeliest",
        "tolerance": f"router: tau = {router.config.tau:.3g}",
        "certified": "router: by default",
        "utility": "router: utility",
        "oracle": "oracle, who knows who is right",
    }
    scales = {"accuracy": "%", "gap closed": "%", "mean cost": "USD", "cost saving": "%"}
    names = dict.fromkeys((r.router, r.target) for r in results if r.metric == "accuracy")
    shown = [m for m in scales if any(r.metric == m for r in results)]
    by_name = {(r.metric, r.router, r.target): r for r in results}
    rows = [
        [
            target or called.get(name, name),
            *(format_interval(by_name[m, name, target], scales[m]) for m in shown),
        ]
        for name, target in names
    ]
    heads = [f"{m} ({QUERIES:,} queries)" if m == "mean cost" else m for m in shown]
    return table(pd.DataFrame(rows, columns=["asked by", *heads]))


def tau_table(router: Router, seen: Examined, n_resamples: int) -> Display:
    """Return what each tolerance is worth on the held-out queries."""
    notes = {router.config.tau: "chosen on validation"}
    if (certified := router.guarantee.tau) is not None:
        both = certified == router.config.tau
        notes[certified] = "certified, chosen on validation" if both else "certified"
    taus = sorted({*TAUS, *notes})
    expected = np.zeros(seen.p.shape) if seen.expected is None else seen.expected
    results = evaluate_choices(
        {f"{tau:g}": policy.tolerance(seen.p, expected, tau) for tau in taus},
        seen.labels.correct, seen.paid, seen.labels.targets.index(router.guarantee.best_single),
        seen.labels.group, targets=seen.labels.targets, n_resamples=n_resamples,
    )  # fmt: skip
    rows = []
    for tau in taus:
        row = [f"{tau:.3g}", format_interval(pick(results, "accuracy", f"{tau:g}"))]
        if seen.paid is not None:
            row += [
                format_interval(pick(results, "mean cost", f"{tau:g}"), "USD"),
                format_interval(pick(results, "cost saving", f"{tau:g}")),
            ]
        rows.append([*row, notes.get(tau, "")])
    costs = [f"cost of {QUERIES:,} queries", "saving against the dearest"]
    costs = [] if seen.paid is None else costs
    return table(pd.DataFrame(rows, columns=["tau", "accuracy", *costs, ""]))


def _choices(router: Router, seen: Examined) -> dict[str, np.ndarray]:
    priced = seen.expected is not None
    rules = rules_of(router.parts.tuned, router.targets, router.config.tau, priced)
    return {name: rule.choose(seen.p, seen.expected) for name, rule in rules.items()}


def share_table(router: Router, seen: Examined) -> Display:
    """Return who is asked what: each target's share, overall and by benchmark."""
    choices = _choices(router, seen)
    heads = [f"all, tau = {router.config.tau:.3g}", "all, by default"]
    parts = [choices[name] for name in ("tolerance", "certified")]
    benchmarks, counts = np.unique(seen.labels.benchmark, return_counts=True)
    for name in benchmarks[np.argsort(-counts)][:8]:
        heads.append(str(name))
        parts.append(choices[_detailed(router)][seen.labels.benchmark == name])
    shares = np.column_stack([_shares(part, seen.p.shape[1]) for part in parts])
    rows = [[target, *row] for target, row in zip(router.targets, shares, strict=True)]
    frame = pd.DataFrame(rows, columns=["target", *heads])  # a benchmark may be called alike
    return table(frame, formats=dict.fromkeys(heads, ".0%"))


def _shares(choice: np.ndarray, n_targets: int) -> np.ndarray:
    return np.bincount(choice, minlength=n_targets) / max(len(choice), 1)


def calibration_table(results: list[Estimate], seen: Examined) -> Display:
    """Return ranking and calibration by target, and the ECE that chance alone would show."""
    rows = [r for r in results if r.router == "calibrated" and r.metric in ("AUC", "Brier", "ECE")]
    by_target: dict[str, dict[str, str]] = {}
    for row in rows:
        by_target.setdefault(row.target, {})[row.metric] = format_interval(row, "value")
    chance = metrics.chance_calibration_error(seen.p, seen.labels.correct)
    by_chance = dict(zip(seen.labels.targets, chance, strict=True)) | {"": metrics.macro(chance)}
    for target, columns in by_target.items():
        columns["ECE by chance"] = f"{by_chance[target]:.3f}"
    frame = pd.DataFrame.from_dict(by_target, orient="index").reset_index(names="target")
    return table(frame.replace({"target": {"": "mean of targets"}}))


def failure_table(router: Router, seen: Examined) -> Display:
    """Return how often the router fails, by benchmark, and how often that could be helped."""
    choice = _choices(router, seen)[_detailed(router)]
    complete = seen.labels.complete
    right = seen.labels.correct[np.arange(len(choice)), choice]
    possible = np.nanmax(np.where(complete[:, None], seen.labels.correct, 0), axis=1)
    frame = pd.DataFrame(
        {
            "benchmark": seen.labels.benchmark,
            "wrong": right == 0,
            "another was right": (right == 0) & (possible == 1),
            "nobody was right": (right == 0) & (possible == 0),
        }
    )[complete]
    grouped = frame.groupby("benchmark")
    shares = grouped.mean().assign(queries=grouped.size()).reset_index()
    shares = shares.sort_values("another was right", ascending=False)
    columns = ["wrong", "another was right", "nobody was right"]
    return table(shares[["benchmark", "queries", *columns]], formats=dict.fromkeys(columns, ".0%"))


def mistakes(router: Router, seen: Examined) -> Display:
    """Return the queries that went most confidently to a wrong target while another was right."""
    choice = _choices(router, seen)[_detailed(router)]
    at = np.arange(len(choice))
    correct = seen.labels.correct
    missed = (correct[at, choice] == 0) & (correct == 1).any(axis=1)
    rows = np.flatnonzero(missed)
    rows = rows[np.argsort(-seen.p[rows, choice[rows]], kind="stable")][:MISTAKES]
    questions = [
        text[:LONGEST] + "…" * (len(text) > LONGEST) for text in seen.labels.question[rows]
    ]
    return query_cards(questions, correct[rows], seen.p[rows], choice[rows], router.targets)


def _trade_off(ax: Axes, seen: Examined, results: list[Estimate]) -> None:
    trade_off(
        ax, {"tolerance": seen.p}, seen.labels.correct, seen.paid, seen.expected,
        seen.labels.group, targets=seen.labels.targets, estimates=results,
    )  # fmt: skip


def _reliability(ax: Axes, seen: Examined) -> None:
    plotting.reliability(
        ax,
        {
            "calibrated": metrics.reliability_curve(seen.p, seen.labels.correct),
            "uncalibrated": metrics.reliability_curve(seen.raw, seen.labels.correct),
        },
    )


def _picture(draw: Callable, size: tuple[float, float] = (6.4, 4.6)) -> str:
    """Return a figure as an address that holds it all; as an image its SVG can run nothing."""
    figure, ax = plt.subplots(figsize=size)
    draw(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


def _html(shown: Display) -> Markup:
    return Markup(shown.html)  # escaped by `display`
