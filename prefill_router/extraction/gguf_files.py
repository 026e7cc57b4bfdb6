"""GGUF files: whole models of llama.cpp, refused where transformers would read them otherwise."""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from prefill_router.errors import InputError

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")
TAKE_SAFETENSORS = "Take the model's safetensors, or a GGUF file that was made anew from them."
FACTORS = "rope_freqs.weight"  # what rotary frequencies are divided by, as in Llama 3.1
NOT_OF_STATES = ("tensor_data_layout", "pooling_type", "final_logit_softcapping")
STATED = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads",
    "key_length": "head_dim", "value_length": "head_dim", "freq_base": "rope_theta",
    "layer_norm_rms_epsilon": "rms_norm_eps", "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
"""What configs call what a GGUF file states; the rest has one name in both."""


def read_gguf(path: Path) -> Any:
    """Return a file's fields and tensors, as ``gguf.GGUFReader``; its weights stay on the disk.

    Raises
    ------
    InputError
        If it is not GGUF, only a part of a model, damaged or truncated, or if the package gguf is
        not installed.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path} is not a GGUF file; other models are given by a directory.")
    if split := SPLIT.search(path.name):
        number, n_parts = map(int, split.groups())
        parts = [SPLIT.sub(f"-{i:05}-of-{n_parts:05}", path.name) for i in range(1, n_parts + 1)]
        missing = [part for part in parts if not (path.parent / part).exists()]
        raise InputError(
            f"{path} is part {number} of {n_parts} of a model, and transformers reads one file: "
            + f"download {', '.join(missing)}, which is missing, and " * bool(missing)
            + f"join the parts with `llama-gguf-split --merge {parts[0]} WHOLE.gguf`."
        )
    try:
        return _reader(path, path.stat().st_mtime_ns)
    except ImportError:
        raise InputError(f"{path} needs the package gguf: pip install -e '.[gguf]'.") from None
    except Exception as error:  # bytes that are not what they should be lead to any kind of error
        raise InputError(
            f"{path} is truncated or damaged ({error}): compare its size ({path.stat().st_size:,} "
            "bytes) with its source's, and download it again."
        ) from error


@functools.lru_cache(maxsize=1)
def _reader(path: Path, _written: int) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)


def drop_invented(path: Path, tokenizer: Any) -> None:
    """Drop the special tokens that transformers adds to a file's: none has an embedding."""
    n_tokens = len(read_gguf(path).fields["tokenizer.ggml.tokens"].data)
    if len(tokenizer) > n_tokens:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        own = [token for token in backend["added_tokens"] if token["id"] < n_tokens]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend | {"added_tokens": own}))


def n_weights(path: Path) -> int:
    """Count the weights in a file; factors of rotary positions are none."""
    return sum(int(t.n_elements) for t in read_gguf(path).tensors if t.name != FACTORS)


def complete(path: Path, model: torch.nn.Module) -> None:
    """Apply the factors of rotary positions, which transformers leaves in a file.

    Raises
    ------
    InputError
        If it leaves more there, such as a sliding window or a scale, so that states would differ
        from the model's.
    """
    config, fields = model.config, read_gguf(path).fields
    rope = getattr(config, "rope_parameters", None) or {}
    full, sliding = (rope.get(f"{kind}_attention", rope) for kind in ("full", "sliding"))
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own = {
        "head_dim": head,
        "layer_norm_epsilon": getattr(config, "layer_norm_eps", None),
        "rope_theta": full.get("rope_theta"),
        "freq_base_swa": sliding.get("rope_theta"),
        "dimension_count": head * full.get("partial_rotary_factor", 1),
    }
    pairs = {"weights": (n_weights(path), sum(p.numel() for p in model.parameters()))}
    for key in fields:
        name = STATED.get(last := key.rpartition(".")[2], last)
        if key.startswith(fields["general.architecture"].contents()) and name not in NOT_OF_STATES:
            pairs[key] = (fields[key].contents(), own.get(name) or getattr(config, name, None))
    for key, (there, read) in pairs.items():
        is_float = isinstance(there, float)  # of four bytes in the file
        if there != read and not (is_float and math.isclose(there, read or 0, rel_tol=1e-6)):
            raise InputError(
                f"{path}: {key} is {there}, which transformers reads as {read}, and states would "
                f"not be the model's. {TAKE_SAFETENSORS}"
            )
    for tensor in read_gguf(path).tensors:
        for module in model.modules() if tensor.name == FACTORS else ():
            if hasattr(module, "inv_freq"):
                module.inv_freq /= torch.tensor(tensor.data).to(module.inv_freq)
