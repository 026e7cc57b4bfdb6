"""How many parameters a model has, by what its files say."""

from __future__ import annotations

from math import prod

from safetensors import safe_open

from prefill_router.extraction.sources import ModelSource
from prefill_router.storage import read_json

INDEX = "model.safetensors.index.json"


def n_parameters(source: ModelSource) -> int:
    """Count the weights that a model stores; nothing is loaded.

    Parameters
    ----------
    source : ModelSource
        From `prefill_router.extraction.sources.resolve`.

    Returns
    -------
    int
        Embeddings and the language-model head included; tied ones are stored, and counted, once.
    """
    directory = source.location
    if (directory / INDEX).exists():
        names = sorted(set(read_json(directory / INDEX)["weight_map"].values()))
    elif (directory / "model.safetensors").exists():
        names = ["model.safetensors"]
    else:
        names = sorted(path.name for path in directory.glob("*.safetensors"))
    total = 0
    for name in names:
        with safe_open(directory / name, "numpy") as weights:
            total += sum(prod(weights.get_slice(k).get_shape()) for k in weights.offset_keys())
    return total
