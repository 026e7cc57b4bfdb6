"""A router of random models, fitted in seconds, for tests."""

import tiny_studies

from prefill_router.extraction import extract
from prefill_router.labels import load_labels
from prefill_router.labels.costs import load_prices
from prefill_router.router import Router

SETTINGS = {
    "head": "trunk", "dimensions": [2, 6], "n_seeds": 2, "keep": 2, "n_resamples": 50,
    "max_loss": 0.2,
}  # fmt: skip


def fit(directory, table=None, **settings):
    """Fit a router to the labels of `tiny_studies.world`; return it and the labels."""
    world = tiny_studies.world(directory, table)
    labels = load_labels(world["labels"])
    settings = {"prices": load_prices(world["prices"]), **SETTINGS, **settings}
    states = extract(world["encoder"], labels.question.tolist())
    return Router.fit(labels, states, **settings), labels
