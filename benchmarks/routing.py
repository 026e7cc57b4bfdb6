"""Time a routed query against the bare pass of its encoder: how much is added to it?

    python benchmarks/routing.py [--queries 300]

A router is fitted on 1,500 queries of the zoo, saved and loaded. Routing takes a text and returns a
choice with probabilities, expected costs and the reason. The bare pass is the encoder cut off above
the highest layer read, without any hook, on token ids that are there already: template, tokeniser,
pooling, probabilities, costs and choice are all counted as ours. Both are timed on the same queries
in turn; the overhead is the median of the differences. Times are those of the processor, on one
thread, NumPy's included, so that what else runs on the machine does not count, nor a thread of one
side that still waits for work while the other is timed. That both compute the same
is checked: probabilities from the bare pass, pooled one prompt at a time and computed in float64,
against those of the router. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from prefill_router import zoo
from prefill_router.extraction import extract
from prefill_router.extraction.batches import plan_batches
from prefill_router.labels import load_labels
from prefill_router.labels.costs import load_prices
from prefill_router.router import Router

BATCH, REPEATS, WARM_UP = 64, 20, 20


def fitted() -> tuple[Router, list[str]]:
    """Return a router that went through its files, and queries to ask it."""
    labels = load_labels(zoo.LABELS, n_queries=1500)
    states = extract("zoo/reader-l", labels.question.tolist())
    router = Router.fit(
        labels, states, head="trunk", prices=load_prices(zoo.PRICES), n_resamples=100
    )
    with tempfile.TemporaryDirectory() as directory:
        return Router.from_pretrained(router.save_pretrained(directory)), labels.question.tolist()


def cut_off(model: nn.Module, highest: int) -> nn.Module:
    """Return a copy of a decoder with no block above a hidden state, nor its final norm."""
    bare = copy.deepcopy(model)
    if highest < len(bare.layers):
        bare.layers, bare.norm = bare.layers[:highest], nn.Identity()
        bare.config.num_hidden_layers = highest
    return bare


def plain(router: Router, model: nn.Module, tokens: list[int]) -> np.ndarray:
    """Return P(correct) of one prompt from whole hidden states, in float64."""
    predictor = router.predictor
    with torch.inference_mode():
        hidden = model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states
    pools = {"last": lambda h: h[-1], "mean": lambda h: h.mean(axis=0)}
    parts = [
        (pools[pooling](hidden[layer][0].double().numpy()) - centre) @ projection
        for (_, layer, pooling), centre, projection in zip(
            predictor.places, predictor.centre, predictor.projection, strict=True
        )
    ]
    return predictor.calibration.apply(predictor.raw(np.concatenate(parts)[None]))[0]


def milliseconds(task: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    task()
    return 1000 * (time.process_time() - start)


def main(n_queries: int) -> None:
    """Check that both sides agree, and time them."""
    torch.set_num_threads(1)
    router, queries = fitted()
    reader, _ = router.reader.loaded
    queries = queries[:n_queries]
    model = reader.model
    highest = max(place.layer for place in router.config.places)
    bare = cut_off(model, highest)
    ids = reader.prompts.ids(queries)

    p = router.predict_proba(queries)
    one_by_one = np.concatenate([router.predict_proba([query]) for query in queries])
    expected = np.stack([plain(router, model, tokens) for tokens in ids])
    difference = max(np.abs(p - expected).max(), np.abs(one_by_one - expected).max())

    def ask(query: str) -> None:
        router.route(query, "utility")

    @torch.inference_mode()
    def read(tokens: torch.Tensor) -> None:
        bare(input_ids=tokens, use_cache=False)

    ours, theirs = [], []
    for place, (query, tokens) in enumerate(zip(queries, ids, strict=True)):
        prompt = torch.tensor([tokens])
        pair = milliseconds(lambda query=query: ask(query)), milliseconds(lambda t=prompt: read(t))
        if place >= WARM_UP:
            ours.append(pair[0])
            theirs.append(pair[1])
    overhead = float(np.median(np.subtract(ours, theirs)))

    batch = queries[:BATCH]
    lengths = np.array([len(tokens) for tokens in ids[:BATCH]])
    batches = plan_batches(lengths, reader.layout.token_budget, BATCH, reader.layout.switch)
    prompts = [reader.prompts.batch([batch[row] for row in rows]).tokens for rows in batches]
    many, bare_many = [], []
    for _ in range(REPEATS):
        many.append(milliseconds(lambda: router.route_many(batch, "utility")))
        bare_many.append(milliseconds(lambda: [read(tokens) for tokens in prompts]))
    throughput = 1000 * BATCH / np.median(many)

    print(f"{router.encoder}, blocks run: {highest} of {len(model.layers)}; {len(ours)} queries")
    print(f"one query: {np.median(ours):.2f} ms, of which the bare pass {np.median(theirs):.2f} ms")
    print(f"overhead:  {overhead:.2f} ms (median of the differences)")
    share = np.median(bare_many) / np.median(many)
    print(
        f"{BATCH} queries at once: {throughput:.0f} queries/s, of which the bare pass takes "
        f"{100 * share:.0f} %"
    )
    print(f"largest difference of a probability from the plain way: {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("The probabilities differ: these times do not compare the same thing.")
    result = {
        "overhead_ms": round(overhead, 3),
        "latency_ms": round(float(np.median(ours)), 3),
        "bare_latency_ms": round(float(np.median(theirs)), 3),
        "queries_per_s": round(float(throughput), 1),
        "bare_share_of_batch": round(float(share), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--queries", type=int, default=300, help="how many are timed one by one")
    with threadpool_limits(1):
        main(parser.parse_args().queries)
