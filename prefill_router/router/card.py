"""The card of a saved router: what it was made from, how good it is, and where that ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import yaml

from prefill_router.evaluation.estimates import Estimate
from prefill_router.report import format_interval
from prefill_router.router.config import AddedRecord, RouterConfig
from prefill_router.router.guarantee import Guarantee

ROUTED = {"accuracy": "%", "gap closed": "%", "mean cost": "USD", "cost saving": "%"}
PREDICTED = {"AUC": "value", "Brier": "value", "ECE": "value"}
ADDED = {"AUC": "value", "AUC difference": "value", "Brier": "value", "ECE": "value"}


def model_card(config: RouterConfig, estimates: Sequence[Estimate], promise: Guarantee) -> str:
    """Return a model card in Markdown, with the front matter of the Hugging Face hub.

    Parameters
    ----------
    config : RouterConfig
    estimates : sequence of Estimate
        Of the test queries.
    promise : Guarantee

    Returns
    -------
    str
        Names from the labels are shown as code, so that nothing in them is markup.
    """
    front = {
        "library_name": "prefill-router",
        "tags": ["llm-routing", "prefill-router"],
    }
    if config.encoder.revision:  # a model on the hub, by the name it has there
        front["base_model"] = [config.encoder.name.partition("@")[0]]
    data, encoder = config.data, config.encoder
    routers = list(
        dict.fromkeys(e.router for e in estimates if e.metric == "accuracy" and not e.target)
    )
    lines = [
        "---",
        yaml.safe_dump(front, allow_unicode=True, sort_keys=True).rstrip(),
        "---",
        "# A router between language models",
        "",
        "It reads a query with an encoder's prefill, predicts for each target the probability of a "
        "correct answer and the cost, and says which one to ask.",
        "",
        "```python",
        "from prefill_router.router import Router",
        "",
        'router = Router.from_pretrained("this directory or repository")',
        'router.route("What is asked?")',
        "```",
        "",
        "## What it was made from",
        "",
        f"- Targets: {', '.join(code(name) for name in config.targets)}.",
        f"- Encoder: {code(encoder.name)}"
        + (f" at revision {code(encoder.revision)}" if encoder.revision else "")
        + f"; hash of its files `{encoder.weights}`, checked when the router is loaded. "
        f"States read: {', '.join(f'layer {p.layer} ({p.pooling})' for p in config.places)}.",
        f"- Labels: fingerprint `{data.fingerprint}`, {data.queries:,} queries in {data.groups:,} "
        f"groups ({data.train:,} to train, {data.validation:,} to validate, {data.test:,} to "
        f"test; no group on two sides; seed {data.seed}).",
        f"- Benchmarks: {', '.join(code(name) for name in data.benchmarks)}.",
        _price_line(config),
        "",
        "## How good it is",
        "",
        "On the test queries, 95 % intervals by a bootstrap over groups of queries. Costs are USD "
        "per thousand queries.",
        "",
        *_table(["router", *ROUTED], [_row(estimates, ROUTED, name, "") for name in routers]),
        "",
        "Predicted probabilities, averaged over targets and for each:",
        "",
        *_table(
            ["probabilities", "target", *PREDICTED],
            [
                _row(estimates, PREDICTED, name, target, target or "average")
                for name in dict.fromkeys(e.router for e in estimates if e.metric == "ECE")
                for target in ("", *config.targets)
            ],
        ),
        "",
        f"Guarantee: {replace(promise, best_single=code(promise.best_single))}",
        "",
        *_added(config.added),
        "## Limits",
        "",
        "- What is measured holds for queries like those of the labels; other subjects, languages "
        "or lengths were not tested.",
        "- A target that changes behind its name, or a price that does, is not noticed.",
        "- Labels count an answer as right or wrong by one answer a query; where answers are drawn "
        "at random, the oracle looks better than it is.",
        "- The certificate is about the average over such queries, each group of wordings counting "
        "once, not about one query or a part of them.",
        "- The certified tolerance was found on the test queries: the guarantee allows for that, "
        "the intervals of its row do not.",
        f"- Made with prefill-router {config.package}.",
        "",
    ]
    return "\n".join(lines)


def code(text: str) -> str:
    """Return Markdown that shows `text` literally, also within a table."""
    shown = "".join(c if c.isprintable() else " " for c in text).replace("`", "'")
    return f"`{shown.replace('|', chr(92) + '|')}`"


def _price_line(config: RouterConfig) -> str:
    if config.prices is None:
        return "- Prices: unknown; costs are not predicted."
    said = [
        f"{code(target)} {price.input:g} and {price.output:g}"
        if price.input is not None
        else f"{code(target)} by the costs in the labels, which are predicted as a whole"
        for target, price in zip(config.targets, config.prices, strict=True)
    ]
    own = [t for t, p in zip(config.targets, config.prices, strict=True) if p.tokenizer]
    counted = "the encoder's tokenizer"
    if own:
        counted = f"their own tokenizers for {', '.join(map(code, own))}, else {counted}"
    as_of = f" as of {code(config.as_of)}" if config.as_of else ", undated"
    return (
        f"- Prices{as_of}, USD per million input and output tokens: {'; '.join(said)}. Where they "
        f"are known, input tokens are counted by {counted}, and output tokens predicted."
    )


def _added(added: Sequence[AddedRecord]) -> list[str]:
    """Return what is known of targets added since, and by how many labels; nothing if none were."""
    if not added:
        return []
    facts, measured = [], []
    for record in added:
        estimates = [row.estimate_of() for row in record.metrics]
        accuracy = [format_interval(e) for e in estimates if e.metric == "accuracy"]
        price = "unknown" if record.mean_cost is None else "by the costs in the labels"
        if record.input is not None:
            price = f"{record.input:g} and {record.output:g}"
        covered = "covers it" if record.certified else "does not cover it"
        facts.append([code(record.name), f"{record.n:,}", *accuracy[:1], price, covered])
        for name in dict.fromkeys(e.router for e in estimates if e.metric != "accuracy"):
            measured.append([code(record.name), *_row(estimates, ADDED, name)])
    return [
        "## Targets added since",
        "",
        "Each has a head on the other targets' probabilities, fitted to a few labels of its own.",
        "",
        *_table(
            ["target", "labels", "accuracy on them", "price in USD per million tokens in and out",
             "guarantee"],
            facts,
        ),
        "",
        "On held-out folds of those labels, beside the mean of the other targets' probabilities, "
        "which uses none of them:",
        "",
        *_table(["target", "probabilities", *ADDED], measured),
        "",
    ]  # fmt: skip


def _row(
    estimates, scales, router: str, target: str | None = None, shown: str | None = None
) -> list[str]:
    found = {
        e.metric: format_interval(e, scales[e.metric])
        for e in estimates
        if e.router == router and (target is None or e.target == target) and e.metric in scales
    }
    first = [code(router)] if shown is None else [code(router), code(shown)]
    return first + [found.get(metric, "") for metric in scales]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]
