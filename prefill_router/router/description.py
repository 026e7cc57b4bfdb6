"""What a router just trained says of itself, and the files of others that it names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.sources import ModelSource, resolve, weights_hash
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices
from prefill_router.labels.splits import Split
from prefill_router.router.config import FORMAT, GuaranteeRecord, MetricRecord, RouterConfig
from prefill_router.router.files import parse_tokenizer, tensor_bytes
from prefill_router.router.guarantee import Guarantee
from prefill_router.router.parts import Parts, to_tensors
from prefill_router.router.training import Trained


def describe(
    trained: Trained,
    labels: Labels,
    split: Split,
    source: ModelSource,
    prices: Prices | None,
    reading: dict[str, Any],
    seed: int,
) -> RouterConfig:
    """Return what ``router.json`` says of a router.

    Parameters
    ----------
    trained : Trained
    labels : Labels
    split : Split
    source : ModelSource
        The encoder.
    prices : Prices or None
    reading : dict
        ``dtype``, ``max_tokens`` and ``truncation``.
    seed : int

    Returns
    -------
    RouterConfig
    """
    parts = trained.parts
    heads, tuned = parts.heads, parts.tuned
    record = {
        "format": FORMAT,
        "package": version("prefill-router"),
        "targets": list(labels.targets),
        "encoder": {
            "name": source.name,
            "revision": source.revision,
            "weights": weights_hash(source),
            **reading,
        },
        "places": [{"layer": layer, "pooling": pooling} for layer, pooling in heads.places],
        "choices": [
            {"layer": c.layer, "pooling": c.pooling, "dimension": c.dimension}
            for c in trained.choices
        ],
        "shapes": {
            "width": heads.projection.shape[1],
            "components": heads.projection.shape[2],
            "networks": len(heads.weights[0]),
            "hidden": [weight.shape[2] for weight in heads.weights[:-1]],
            "validation": len(tuned.p),
            "seen": len(parts.seen),
        },
        "labelled": heads.labelled.tolist(),
        "calibration": heads.calibration.families,
        "prices": _price_records(parts, labels, prices),
        "as_of": prices.as_of if prices is not None else "",
        "tau": trained.tau,
        "lam": tuned.lam,
        "accuracy": [None if np.isnan(a) else float(a) for a in tuned.accuracy],
        "guarantee": guarantee_record(tuned.guarantee),
        "metrics": [MetricRecord.of(row) for row in trained.metrics],
        "data": {
            "fingerprint": labels.fingerprint,
            "queries": labels.n_queries,
            "groups": len(np.unique(labels.group)),
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
            "benchmarks": sorted(set(labels.benchmark.tolist())),
            "seed": seed,
        },
        "tensors": tensors_digest(parts),
    }
    return RouterConfig.model_validate(record)


def tensors_digest(parts: Parts) -> str:
    """Return the hash of the file that `parts` are saved as."""
    return hashlib.sha256(tensor_bytes(to_tensors(parts))).hexdigest()


def _price_records(parts: Parts, labels: Labels, prices: Prices | None) -> list[dict] | None:
    if parts.costs is None:
        return None
    records = []
    for k, target in enumerate(labels.targets):
        by_cost = parts.costs.output_price[k] == 1
        own = parts.costs.tokenizers.get(k)
        records.append(
            {
                "input": None if by_cost else prices.input[target],
                "output": None if by_cost else prices.output[target],
                "predicted": "cost_usd" if by_cost else "output_tokens",
                "tokenizer": own and hashlib.sha256(own.to_str().encode()).hexdigest(),
            }
        )
    return records


def guarantee_record(promise: Guarantee) -> GuaranteeRecord:
    """Return a guarantee as ``router.json`` has it."""
    record = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(promise).items()}
    return GuaranteeRecord.model_validate(record)


def find_encoder(config: RouterConfig, override: str | None = None) -> ModelSource:
    """Return the encoder of a router, under its own name or another.

    Raises
    ------
    InputError
        If it is not there, or its files are others than the router was fitted to.
    """
    record = config.encoder
    name = override or record.name
    if override is None and record.revision is not None:
        name = f"{record.name.partition('@')[0]}@{record.revision}"
    try:
        source = resolve(name)
    except InputError as error:
        raise InputError(
            f"{error} The router was fitted to this encoder: say where it lies now "
            "(from_pretrained(..., encoder=PATH); on the command line -p encoder=PATH)."
        ) from None
    if (found := weights_hash(source)) != record.weights:
        raise InputError(
            f"{name} is not the encoder that the router was fitted to: its files have the hash "
            f"{found[:16]}..., that one's {record.weights[:16]}.... Say where that one lies "
            "(encoder=...), or fit the router anew."
        )
    return source


def read_own_tokenizers(
    paths: Mapping[str, str | os.PathLike], targets: Sequence[str]
) -> dict[int, Tokenizer]:
    """Return the tokenizers of some targets, by their column.

    Raises
    ------
    InputError
        If a target is unknown, or has no ``tokenizer.json`` there.
    """
    tokenizers = {}
    for target, name in paths.items():
        if target not in targets:
            raise InputError(
                f"tokenizers: unknown target {target!r}.{did_you_mean(target, targets)}"
            )
        path = Path(name).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"tokenizers: {target!r} has no {path}.")
        tokenizers[targets.index(target)] = parse_tokenizer(path.read_bytes(), path)
    return tokenizers
