"""What is read of each prompt, and how: in memory, to disk and on a cluster alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from prefill_router.errors import InputError
from prefill_router.extraction.pooling import check_poolings
from prefill_router.extraction.prompts import Truncation

Layers = Literal["all", "upper"] | Sequence[int]


@dataclass(frozen=True)
class Settings:
    """What is read of each prompt, and how.

    Parameters
    ----------
    layers : "all", "upper" or sequence of int, default "all"
        Which of the hidden states 0..L to keep; ``"upper"`` is the upper half, L // 2 + 1 to L.
        Blocks above the highest are not run.
    poolings : sequence of str, default ("last", "mean")
        Keys of `prefill_router.extraction.pooling.POOLINGS`.
    max_tokens : int, optional
        The most tokens of a prompt; by default, and at most, what model and tokenizer allow.
    truncation : {"error", "left", "right"}, default "error"
        What to do with longer prompts.
    token_budget : int, optional
        The most tokens of a batch, padding included; bounds memory, changes no result beyond
        rounding. By default what `prefill_router.extraction.default_budget` finds.
    template_kwargs : dict, optional
        Passed to the chat template.
    template : str, optional
        A chat template (Jinja) to use instead of the tokenizer's.

    Raises
    ------
    InputError
        If a pooling is unknown or there is none, or the token budget is below 1.
    """

    layers: Layers = "all"
    poolings: Sequence[str] = ("last", "mean")
    max_tokens: int | None = None
    truncation: Truncation = "error"
    token_budget: int | None = None
    template_kwargs: dict[str, Any] | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        """Check what needs no model to be checked."""
        object.__setattr__(self, "poolings", check_poolings(self.poolings))
        if self.token_budget is not None and self.token_budget < 1:
            raise InputError(f"token_budget is {self.token_budget}; it must be at least 1.")

    def decisive(self) -> dict[str, Any]:
        """Return all that decides the states, JSON-able: batches change rounding only."""
        decisive = asdict(self)
        del decisive["token_budget"]
        if not isinstance(self.layers, str):
            decisive["layers"] = sorted({int(layer) for layer in self.layers})
        return decisive
