"""From one state a token to one state a prompt: add a pooling as one function in `POOLINGS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefill_router.errors import InputError, check_known


@dataclass(frozen=True)
class Batch:
    """B prompts, padded on the right to T tokens.

    Attributes
    ----------
    tokens : int64 Tensor of shape (B, T)
        Token ids.
    lengths : int64 Tensor of shape (B,)
        Tokens of each prompt; what follows is padding.
    user : int64 Tensor of shape (B, 2)
        The first of the user's own tokens and the first after them; what is before and after is
        the chat template's. Where no pooling asks for it, the whole prompt.
    """

    tokens: Tensor
    lengths: Tensor
    user: Tensor

    def __len__(self) -> int:
        """Return B."""
        return len(self.tokens)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(self.tokens.to(device), self.lengths.to(device), self.user.to(device))

    def __getitem__(self, rows: slice) -> Batch:
        """Return some of the prompts, padded no wider than they must be."""
        lengths = self.lengths[rows]
        return Batch(self.tokens[rows, : int(lengths.max())], lengths, self.user[rows])


def pool_last(states: Tensor, batch: Batch) -> Tensor:
    """Return the last prompt token's state: (B, T, D) -> (B, D)."""
    if len(batch) == 1:  # one prompt alone has no padding
        return states[:, -1].float()
    return states[torch.arange(len(states), device=states.device), batch.lengths - 1].float()


def pool_mean(states: Tensor, batch: Batch) -> Tensor:
    """Return the mean over prompt tokens: (B, T, D) -> (B, D)."""
    if len(batch) == 1:
        return states.float().mean(dim=1)
    return _mean(states, torch.zeros_like(batch.lengths), batch.lengths)


def pool_user_mean(states: Tensor, batch: Batch) -> Tensor:
    """Return the mean over the user's own tokens, the template's left out: (B, T, D) -> (B, D)."""
    return _mean(states, batch.user[:, 0], batch.user[:, 1])


def _mean(states: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    position = torch.arange(states.shape[1], device=states.device)
    counts = (position >= start[:, None]) & (position < stop[:, None])
    # where, not a product: a padded position may hold NaN, and NaN times zero is NaN
    counted = torch.where(counts[:, :, None], states.float(), 0.0)
    return counted.sum(dim=1) / (stop - start)[:, None]


POOLINGS: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "last": pool_last,
    "mean": pool_mean,
    "user_mean": pool_user_mean,
}
"""Each takes states (B, T, D) and their `Batch`, and returns float32 (B, D). Only where a name
begins with ``user_`` are the user's own tokens looked for: `Batch.user` holds them."""


def check_poolings(poolings: Sequence[str]) -> list[str]:
    """Return the poolings as a list, or raise InputError if one is unknown or there is none."""
    poolings = [poolings] if isinstance(poolings, str) else list(dict.fromkeys(poolings))
    for pooling in poolings:
        check_known("pooling", pooling, POOLINGS)
    if not poolings:
        raise InputError(f"poolings is empty; known: {', '.join(POOLINGS)}.")
    return poolings


def needs_user(poolings: Sequence[str]) -> bool:
    """Return whether some pooling looks at the user's own tokens."""
    return any(pooling.startswith("user_") for pooling in poolings)
