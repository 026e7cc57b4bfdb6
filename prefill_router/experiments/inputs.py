"""What a study is made from: found, checked and identified before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefill_router.errors import InputError
from prefill_router.experiments.study import Study
from prefill_router.extraction import check_layers
from prefill_router.extraction.models import device_map
from prefill_router.extraction.prompts import check_max_tokens, config_limit
from prefill_router.extraction.sources import text_config, weights_hash
from prefill_router.labels.costs import expected_costs, query_costs


def check_inputs(study: Study) -> dict[str, Any]:
    """Read or find all that a study's parameters name, and return what identifies its content.

    Returns
    -------
    dict
        ``labels``, ``prices`` and ``encoders``.

    Raises
    ------
    InputError
        If labels, prices, an encoder or the device are missing or cannot be used, the queries
        are too few to be split, or what an answer costs is unknown.
    """
    p = study.parameters
    inputs = {
        "labels": study.labels.fingerprint,
        "prices": price_content(study),
        "encoders": encoder_hashes(study),
    }
    for encoder in inputs["encoders"]:
        _check_encoder(study, encoder)
    if p.engine == "local":  # a cluster's workers have devices of their own
        device_map(p.device)
    _check_costs(study)
    return inputs


def encoder_hashes(study: Study) -> dict[str, str]:
    """Return the hash of every encoder that a study's parameters name, by name."""
    embedding = study.parameters.embedding
    encoders = [*study.encoders, *([] if embedding == "lsa" else [embedding])]
    return {encoder: weights_hash(study.source(encoder)) for encoder in encoders}


def price_content(study: Study) -> dict[str, Any] | None:
    """Return what the price table says, wherever it lies."""
    if study.prices is None:
        return None
    return {name: value for name, value in vars(study.prices).items() if name != "source"}


def _check_encoder(study: Study, encoder: str) -> None:
    """Refuse layers that an encoder lacks, and prompts longer than it reads, by its config."""
    p, config = study.parameters, text_config(study.source(encoder))
    n_layers = getattr(config, "num_hidden_layers", None)
    try:
        check_max_tokens(p.max_tokens, config_limit(config))
        if encoder == p.encoder and n_layers:
            check_layers(p.layers, n_layers)
    except InputError as error:
        raise InputError(f"{encoder}: {error}") from None


def _check_costs(study: Study) -> None:
    """Refuse unknown costs before any prompt is read: its length does not matter to that."""
    splits = study.splits  # which refuse what is too small to be split
    if not study.has_costs:
        return
    lengths = np.zeros(study.labels.n_queries)
    query_costs(study.labels, study.prices, lengths)
    for split in splits:
        expected_costs(study.labels, study.prices, lengths, split.train)
