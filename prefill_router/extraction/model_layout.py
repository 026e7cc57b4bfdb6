"""Locate the blocks of a model: where its hidden states arise, and whether it is causal."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Sequence, ValuesView
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prefill_router.errors import InputError
from prefill_router.extraction.batches import default_budget, rope_switch
from prefill_router.extraction.models import device_name, input_device

SAMPLE_TOKENS = 16


class HookPoint(NamedTuple):
    """Where in a model a hidden state arises: what a module takes in, or what it gives out."""

    module: str
    is_input: bool

    def register(self, model: nn.Module, hook: Callable) -> RemovableHandle:
        """Have ``hook(module, args, kwargs[, output])`` called whenever something passes here."""
        module = model.get_submodule(self.module)
        before, after = module.register_forward_pre_hook, module.register_forward_hook
        return (before if self.is_input else after)(hook, with_kwargs=True)


@dataclass(frozen=True)
class ModelLayout:
    """How a model can be read, as a sample's forward pass shows; made by `locate_blocks`.

    Attributes
    ----------
    last : int
        L: there are hidden states 0..L.
    places : list of HookPoint or None
        Where each arises. None where that cannot be told for each of them: then whole forward
        passes are made, and transformers is asked for all states.
    is_causal : bool
        Whether no token's state depends on later tokens, so that padding on the right needs no
        attention mask.
    width : int
        D, numbers in a state.
    token_budget : int
        The most tokens of a batch.
    switch : float
        No batch holds prompts of more tokens and others (`rope_switch`).
    device : str
        What computes.
    """

    last: int
    places: list[HookPoint] | None
    is_causal: bool
    width: int
    token_budget: int
    switch: float
    device: str


def locate_blocks(
    model: nn.Module, sample: Sequence[int], padding: int, token_budget: int | None = None
) -> ModelLayout:
    """Find where a model's hidden states arise, by looking at one forward pass.

    No architecture is known by name. A place counts only if what passes there is, bit for bit, the
    hidden state that transformers returns, the final norm included where that is part of state L.
    Likewise a model counts as causal only if the first half of the sample has the same states, bit
    for bit, whether the rest of the sample follows or padding.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    sample : sequence of int
        Token ids of a prompt; `SAMPLE_TOKENS` of them suffice.
    padding : int
        The token that prompts are padded with.
    token_budget : int, optional
        The most tokens of a batch; by default what keeps the device busy (`default_budget`).

    Returns
    -------
    ModelLayout

    Raises
    ------
    InputError
        If the model cannot read text alone, or gives no hidden states.
    """
    if "input_ids" not in inspect.signature(model.forward).parameters:
        raise InputError(f"{type(model).__name__} cannot read text; take a language model.")
    sample = list(sample[:SAMPLE_TOKENS])
    half = len(sample) // 2
    padded = sample[:half] + [padding] * (len(sample) - half)
    passing: list[tuple[HookPoint, Tensor]] = []
    calls: Counter[str] = Counter()
    written = 0

    def watch(point: HookPoint, module: nn.Module, *passed: object) -> None:
        nonlocal written
        calls[point.module] += point.is_input
        state = first_tensor(*passed)
        if state is None:
            return
        if not (point.is_input or any(module.children())):
            written += state.nbytes
        if state.shape[:2] == (1, len(sample)) and state.dim() == 3:
            # A copy, since a later module may write over it; on the host, since devices may differ
            passing.append((point, state.cpu().clone()))

    try:
        with contextlib.ExitStack() as hooks:
            for name, _ in model.named_modules():
                for point in (HookPoint(name, True), HookPoint(name, False)):
                    hook = functools.partial(watch, point)
                    hooks.enter_context(point.register(model, hook))
            hidden = [state.cpu() for state in all_states(model, torch.tensor([sample]))]
    except (TypeError, ValueError) as error:
        raise InputError(f"{type(model).__name__} cannot read text alone: {error}") from error
    if len({state.shape for state in hidden}) > 1:
        raise InputError(f"{type(model).__name__} has hidden states of more than one shape.")
    is_causal = False
    if half and padded != sample:
        other = all_states(model, torch.tensor([padded]))
        is_causal = all(
            torch.equal(a[:, :half], b.cpu()[:, :half]) for a, b in zip(hidden, other, strict=True)
        )
    last, device = len(hidden) - 1, input_device(model)
    bytes_per_token = max(1, written // (len(sample) * max(1, last)))  # of one block
    return ModelLayout(
        last=last,
        places=_match(hidden, [(p, state) for p, state in passing if calls[p.module] == 1]),
        is_causal=is_causal,
        width=hidden[-1].shape[-1],
        token_budget=token_budget or default_budget(device, bytes_per_token),
        switch=rope_switch(model.config.get_text_config()),
        device=device_name(device),
    )


def first_tensor(args: tuple, kwargs: dict, *output: object) -> Tensor | None:
    """Return the first tensor among what a module takes or gives, None without one."""
    values = output[0] if output else (*args, *kwargs.values())
    if isinstance(values, Tensor):
        return values
    values = values.values() if isinstance(values, dict) else values
    values = values if isinstance(values, Sequence | ValuesView) else ()
    return next((value for value in values if isinstance(value, Tensor)), None)


def _match(
    hidden: Sequence[Tensor], passing: list[tuple[HookPoint, Tensor]]
) -> list[HookPoint] | None:
    """Return the first place where each hidden state passes, or None if one cannot be told."""
    places = []
    for layer, state in enumerate(hidden):
        place = next((place for place, other in passing if torch.equal(state, other)), None)
        # States that are alike, or not numbers, could stand for one another in this sample alone.
        is_told = state.isfinite().all() and not any(torch.equal(state, h) for h in hidden[:layer])
        if place is None or not is_told:
            return None
        places.append(place)
    return places


@torch.inference_mode()
def all_states(model: nn.Module, tokens: Tensor, lengths: Tensor | None = None) -> Sequence[Tensor]:
    """Return what transformers calls the hidden states, L + 1 tensors of shape (B, T, D).

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokens : int64 Tensor of shape (B, T)
        Token ids, padded on the right.
    lengths : int64 Tensor of shape (B,), optional
        Tokens of each prompt, for the attention mask; without them nothing is masked.

    Raises
    ------
    InputError
        If the model gives no hidden states.
    """
    output = model(**model_inputs(model, tokens, lengths), output_hidden_states=True)
    if output.get("hidden_states") is None:
        raise InputError(f"{type(model).__name__} gives no hidden states; take another encoder.")
    return output.hidden_states


def model_inputs(model: nn.Module, tokens: Tensor, lengths: Tensor | None) -> dict[str, object]:
    """Return what a model is called with to read a batch; arguments as for `all_states`."""
    device = input_device(model)
    inputs: dict[str, object] = {"input_ids": tokens.to(device)}
    if lengths is not None:
        position = torch.arange(tokens.shape[1], device=lengths.device)
        inputs["attention_mask"] = (position < lengths[:, None]).long().to(device)
    if _takes_cache(type(model)):
        inputs["use_cache"] = False  # keys and values are for generating, which never happens
    return inputs


@functools.cache
def _takes_cache(kind: type[nn.Module]) -> bool:
    accepted = inspect.signature(kind.forward).parameters
    return "use_cache" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values())
