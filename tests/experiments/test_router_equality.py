"""What the book evaluates is what a saved router computes."""

import numpy as np
import pytest
import tiny_studies
from tiny_studies import label_table

from prefill_router.evaluation.results import one
from prefill_router.experiments.comparison import held_out, route
from prefill_router.experiments.routers import PRIMARY, predictions
from prefill_router.extraction.activations import Activations
from prefill_router.router import Router


def test_the_headline_router_is_the_saved_router_bit_for_bit(tmp_path):
    study = tiny_studies.study(tmp_path, label_table(500), encoders=[], untrained="")
    p, states, [split] = study.parameters, study.activations(), study.splits
    fitted = Router.fit(
        study.labels, states, head="trunk", prices=study.prices, dimensions=p.dimensions,
        n_seeds=p.n_seeds, keep=p.keep, n_resamples=p.n_resamples, seed=p.seed,
    )  # fmt: skip
    router = Router.from_pretrained(fitted.save_pretrained(tmp_path / "router"))

    # a user has states of new queries alone, not of those that the router was fitted to
    rows = split.test
    places = [(layer, pooling) for layer in states.layers for pooling in states.poolings]
    new = Activations.from_arrays(
        {place: states.states(*place)[rows] for place in places}, states.full_tokens[rows]
    )
    labels = study.labels.take(rows)
    said = router.examine(labels, states=new)
    np.testing.assert_array_equal(said.p, predictions(study, PRIMARY)[0][rows])
    np.testing.assert_array_equal(said.raw, predictions(study, PRIMARY, calibrated=False)[0][rows])
    held = predictions(study, PRIMARY)[0][split.validation]
    np.testing.assert_array_equal(router.tensors["validation.p"], held)
    np.testing.assert_array_equal(said.expected, study.expected_costs(0)[rows])

    mine = router.evaluate(labels, states=new, n_resamples=p.n_resamples, seed=p.seed)
    book = held_out(study).choices({PRIMARY: route(study, PRIMARY).frugal})
    for metric in ("accuracy", "gap closed", "cost saving"):
        ours = one(mine, metric=metric, router="tolerance")
        books = one(book, metric=metric, router=PRIMARY)
        assert ours.estimate == books.estimate
        assert (ours.lower, ours.upper) == pytest.approx((books.lower, books.upper), rel=1e-12)
