"""The card of a saved router: what it was made from, how good it is, and where that ends."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from prefill_router.evaluation.results import results
from prefill_router.evaluation.sentences import format_interval, pivot
from prefill_router.router.contents import RouterConfig

ROUTED = {"accuracy": "%", "gap closed": "%", "mean cost": "USD", "cost saving": "%"}
PREDICTED = {"AUC": "value", "Brier": "value", "ECE": "value"}


def model_card(config: RouterConfig) -> str:
    """Return a model card in Markdown, with the front matter of the Hugging Face hub.

    Names from the labels are shown as code, so that nothing in them is markup.
    """
    front = {"library_name": "prefill-router", "tags": ["llm-routing", "prefill-router"]}
    if config.encoder and config.encoder.revision:  # a model on the hub, by the name it has there
        front["base_model"] = [re.split("[@:]", config.encoder.name)[0]]
    found = results(config.metrics)
    overall = found[found.target == ""]
    shown = [overall.assign(target="average"), found[found.target.isin(config.targets)]]
    added = pd.concat([results(r.metrics).assign(target=r.name) for r in config.added] or [found])
    of_target, of_added = ["router", "target"], ["target", "router", "versus"]
    context = {
        "front": yaml.safe_dump(front, allow_unicode=True, sort_keys=True).rstrip(),
        "config": config,
        "policies": _markdown(pivot(overall, ["router"], ROUTED), "router"),
        "probabilities": _markdown(pivot(pd.concat(shown), of_target, PREDICTED), *of_target),
        "guarantee": replace(config.guarantee, best_single=code(config.guarantee.best_single)),
        "added": config.added and _added(config),
        "sureness": _markdown(pivot(added, of_added, PREDICTED), *of_added),
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["code"] = code
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)


def code(text: str) -> str:
    """Return Markdown that shows `text` literally, also within a table."""
    shown = "".join(c if c.isprintable() else " " for c in text).replace("`", "'")
    return f"`{shown.replace('|', chr(92) + '|')}`" if text else ""


def _markdown(shown: pd.DataFrame, *names: str) -> str:
    """Return a table in Markdown; those columns are names from the labels."""
    shown = shown.assign(**{name: shown[name].map(code) for name in names})
    rows = [shown.columns, ["---"] * shown.shape[1], *shown.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _added(config: RouterConfig) -> str:
    rows = []
    for record in config.added:
        [accuracy] = results(record.metrics).query("metric == 'accuracy'").itertuples()
        row = {"target": record.name, "labels": f"{record.n:,}"}
        row |= {"accuracy on them": format_interval(accuracy)}
        rows.append(row | {"guarantee": f"{'covers' if record.certified else 'does not cover'} it"})
    return _markdown(pd.DataFrame(rows), "target")
