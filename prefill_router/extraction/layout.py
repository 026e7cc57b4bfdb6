"""What an extraction is to write, fixed before its first batch and kept when it is resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prefill_router.errors import InputError
from prefill_router.extraction.plan import Plan
from prefill_router.extraction.shards import Shard, tensor_key
from prefill_router.storage import atomic_write, fingerprint

PLAN = "plan.safetensors"
DESCRIPTION = "description"


@dataclass(frozen=True)
class Layout:
    """What an extraction is to write, fixed before its first batch.

    Attributes
    ----------
    description : dict
        What the states are of and how they are made, JSON-able. ``layers``, ``poolings``,
        ``width`` (D) and ``storage_dtype`` give the shape; ``key`` identifies the content.
    plan : Plan
        Which query is read with which, and kept where.
    n_tokens, full_tokens : int64 ndarray of shape (N,)
        Tokens of each prompt as it is read, and before it was cut.
    digests : uint8 ndarray of shape (N, 16)
        What identifies each question.
    """

    description: dict[str, Any]
    plan: Plan
    n_tokens: np.ndarray
    full_tokens: np.ndarray
    digests: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, those of the plan among them."""
        own = {name: getattr(self, name) for name in ("n_tokens", "full_tokens", "digests")}
        return own | vars(self.plan)

    def save(self, directory: Path) -> None:
        """Write the layout, atomically."""
        header = json.dumps(self.description, sort_keys=True)
        content = save(self.arrays, {DESCRIPTION: header})
        with atomic_write(directory / PLAN) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, directory: Path) -> Layout:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If it is missing or damaged.
        """
        path = directory / PLAN
        if not path.is_file():
            raise InputError(f"{directory} holds no activations ({PLAN} is missing).")
        try:
            with safe_open(path, framework="numpy") as file:
                description = json.loads(file.metadata()[DESCRIPTION])
                arrays = {key: file.get_tensor(key) for key in file.offset_keys()}
            plan = Plan(*(arrays.pop(name) for name in ("rows", "batch_ends", "shard_ends")))
            return cls(description, plan, **arrays)
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"{path} is cut short or damaged ({error}); delete {directory} to start again."
            ) from error

    @cached_property
    def owner(self) -> str:
        """What each shard is marked with, so that no shard of another plan is taken for one."""
        return fingerprint(self.description, *self.arrays.values())

    @property
    def places(self) -> dict[str, tuple[int, int]]:
        """The tensors of a shard, and where each stands among layers and poolings."""
        return {
            tensor_key(layer, pooling): (i, j)
            for i, layer in enumerate(self.description["layers"])
            for j, pooling in enumerate(self.description["poolings"])
        }

    def shard_path(self, directory: Path, shard: int) -> Path:
        """Return the file of a shard."""
        return directory / f"shard-{shard:06d}.safetensors"

    def open_shard(self, directory: Path, shard: int) -> Shard:
        """Open a shard, as `Shard.open`."""
        shape = (len(self.plan.shard(shard)), self.description["width"])
        return Shard.open(self.shard_path(directory, shard), self.owner, set(self.places), shape)
