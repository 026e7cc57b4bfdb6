"""Plan batches: group prompts of similar length, within a budget of tokens."""

from __future__ import annotations

import math

import numpy as np
import torch

PADDING = 1 / 16  # of the budget: about what one more batch costs by itself, in tokens
GPU_TOKENS = 16384  # of a batch; beyond, nothing gets faster
CPU_TOKENS = (1024, 8192)  # likewise, of a large and of a tiny model
CPU_BYTES = 64 * 2**20  # what a block writes of a batch, between these


def plan_batches(
    lengths: np.ndarray, token_budget: int, most: int | None = None, switch: float = math.inf
) -> list[np.ndarray]:
    """Plan batches, the longest prompts first, so that what does not fit fails at once.

    Parameters
    ----------
    lengths : int64 ndarray of shape (N,)
        Tokens of each prompt.
    token_budget : int
        The most tokens of a batch, padding included. A longer prompt gets a batch of its own. A
        batch also ends where the next prompt would bring its padding above `PADDING` of the budget:
        from there on another batch costs less than the padding.
    most : int, optional
        The most rows of a batch, so that what is held of short prompts is bounded too.
    switch : float, default infinity
        No batch holds prompts of more tokens and others: `rope_switch`.

    Returns
    -------
    list of int64 ndarray
        The rows of each batch.
    """
    rows = np.argsort(-lengths, kind="stable")
    ends, start, widest, total = [], 0, 0, 0
    for position, length in enumerate(lengths[rows].tolist()):
        n = position - start
        widest, total = max(widest, length), total + length
        padded = widest * (n + 1)
        is_full = padded > token_budget or padded - total > PADDING * token_budget
        is_other = (length > switch) != (widest > switch)
        if n and (is_full or is_other or n == most):
            ends.append(position)
            start, widest, total = position, length, length
    return np.split(rows, ends) if len(rows) else []


def group_batches(batches: list[np.ndarray], n_rows: int) -> list[list[np.ndarray]]:
    """Group batches into shards: each ends with the batch that brings it to `n_rows` rows."""
    shards, held = [], n_rows
    for batch in batches:
        if held >= n_rows:
            shards.append([])
            held = 0
        shards[-1].append(batch)
        held += len(batch)
    return shards


def default_budget(device: torch.device, bytes_per_token: int) -> int:
    """Return how many tokens a batch may have: enough to keep the device busy, and no more.

    More would only pad more. On a GPU that is bounded by half of the memory free now; what does not
    fit after all is halved (`Reader.read_batch`). A CPU is busy with a thousand tokens, and with
    more only where a token is so little work that calling the model counts.

    Parameters
    ----------
    device : torch.device
    bytes_per_token : int
        What the modules of one block write per token: about the memory that a batch needs.
    """
    if device.type == "cuda":
        memory, least, most = torch.cuda.mem_get_info(device)[0] // 2, 1, GPU_TOKENS
    else:
        memory, (least, most) = CPU_BYTES, CPU_TOKENS
    fits = max(1, memory // bytes_per_token)
    return min(max(1 << (fits.bit_length() - 1), least), most)


def rope_switch(config) -> float:
    """Return the longest prompt that a model's text config gives short-context positions.

    LongRoPE turns every prompt of a batch by the factors of its longest, so that prompts on both
    sides must not share a batch. Infinite for a model without it.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in (rope, *(kind for kind in rope.values() if isinstance(kind, dict))):
        if kind.get("rope_type") == "longrope":
            return kind["original_max_position_embeddings"]
    return math.inf
