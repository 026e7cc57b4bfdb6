"""As much of a forward pass as is needed: states pooled where they arise, then no block more."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prefill_router.errors import InputError
from prefill_router.models import input_device
from prefill_router.pooling import POOLINGS, Batch

SAMPLE_TOKENS = 16


class _Done(Exception):
    """Leaves a forward pass from inside, once every state asked for is pooled."""


class Place(NamedTuple):
    """Where in a model a hidden state arises: what a module takes in, or what it gives out."""

    module: nn.Module
    is_input: bool


@dataclass(frozen=True)
class Anatomy:
    """What a sample's forward pass shows of a model; made by `dissect`.

    Attributes
    ----------
    last : int
        L: there are hidden states 0..L.
    places : list of Place or None
        Where each arises. None where that cannot be told for each of them: then whole forward
        passes are made, and transformers is asked for all states.
    is_causal : bool
        Whether no token's state depends on later tokens, so that padding on the right needs no
        attention mask.
    width : int
        D, numbers in a state.
    bytes_per_token : int
        What the modules of one block write per token: about the memory that a batch needs.
    """

    last: int
    places: list[Place] | None
    is_causal: bool
    width: int
    bytes_per_token: int


def dissect(model: nn.Module, sample: Sequence[int], padding: int) -> Anatomy:
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

    Returns
    -------
    Anatomy

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
    passing: list[tuple[Place, Tensor]] = []
    calls: Counter[nn.Module] = Counter()
    written = 0

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls[module] += 1
        keep(Place(module, True), (*args, *kwargs.values()))

    def after(module: nn.Module, args: tuple, output: object) -> None:
        nonlocal written
        state = keep(Place(module, False), output)
        if state is not None and not any(module.children()):
            written += state.nbytes

    def keep(place: Place, values: object) -> Tensor | None:
        state = _first_tensor(values)
        if state is not None and state.shape[:2] == (1, len(sample)) and state.dim() == 3:
            # A copy, for a later module may write over it; on the host, for devices may differ.
            passing.append((place, state.cpu().clone()))
        return state

    handles = []
    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        hidden = [state.cpu() for state in all_states(model, torch.tensor([sample]))]
    except (TypeError, ValueError) as error:
        raise InputError(f"{type(model).__name__} cannot read text alone: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    if len({state.shape for state in hidden}) > 1:
        raise InputError(f"{type(model).__name__} has hidden states of more than one shape.")
    is_causal = False
    if half and padded != sample:
        other = all_states(model, torch.tensor([padded]))
        is_causal = all(
            torch.equal(a[:, :half], b.cpu()[:, :half]) for a, b in zip(hidden, other, strict=True)
        )
    last = len(hidden) - 1
    return Anatomy(
        last=last,
        places=_match(hidden, [(p, state) for p, state in passing if calls[p.module] == 1]),
        is_causal=is_causal,
        width=hidden[-1].shape[-1],
        bytes_per_token=max(1, written // (len(sample) * max(1, last))),
    )


def _first_tensor(values: object) -> Tensor | None:
    if isinstance(values, Tensor):
        return values
    values = values.values() if isinstance(values, dict) else values
    values = values if isinstance(values, Sequence | type({}.values())) else ()
    return next((value for value in values if isinstance(value, Tensor)), None)


def _match(hidden: Sequence[Tensor], passing: list[tuple[Place, Tensor]]) -> list[Place] | None:
    """Return the first place where each hidden state passes, or None if one cannot be told."""
    places = []
    for layer, state in enumerate(hidden):
        # States that are alike, or not numbers, could stand for one another in this sample alone.
        if not state.isfinite().all() or any(torch.equal(state, h) for h in hidden[:layer]):
            return None
        found = (place for place, other in passing if torch.equal(state, other))
        place = next(found, None)
        if place is None:
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
    output = model(**_inputs(model, tokens, lengths), output_hidden_states=True)
    if output.get("hidden_states") is None:
        raise InputError(f"{type(model).__name__} gives no hidden states; take another encoder.")
    return output.hidden_states


def _inputs(model: nn.Module, tokens: Tensor, lengths: Tensor | None) -> dict[str, object]:
    device = input_device(model)
    inputs: dict[str, object] = {"input_ids": tokens.to(device)}
    if lengths is not None:
        position = torch.arange(tokens.shape[1], device=lengths.device)
        inputs["attention_mask"] = (position < lengths[:, None]).long().to(device)
    accepted = inspect.signature(model.forward).parameters
    if "use_cache" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        inputs["use_cache"] = False  # keys and values are for generating, which never happens
    return inputs


class Prefill:
    """Reads batches with a model and gives their pooled states.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode. Between batches it is as it was.
    anatomy : Anatomy
        From `dissect`.
    layers : list of int
        Hidden states wanted, sorted, out of 0..L. Nothing above the highest is run.
    poolings : list of str, or mapping of int to list of str
        Keys of `POOLINGS`; a mapping has those of each layer.

    Notes
    -----
    A hook at each layer's place pools the state there, so that no (B, T, D) outlives its block;
    the hook that pools the last state wanted ends the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        layers: list[int],
        poolings: list[str] | Mapping[int, list[str]],
    ):
        self.model = model
        self.device = input_device(model)
        self.anatomy = anatomy
        self.layers = layers
        self.by_layer = (
            poolings if isinstance(poolings, Mapping) else dict.fromkeys(layers, poolings)
        )
        self.poolings = list(dict.fromkeys(itertools.chain(*self.by_layer.values())))
        self._most: int | None = None  # half of the fewest tokens that were too many for the device

    def read(self, batch: Batch) -> Tensor:
        """Return pooled states of a batch, float32 (n_layers, n_poolings, B, D), on the device.

        For layers with the same poolings; see `read_places`.
        """
        return self.read_places(batch).unflatten(0, (len(self.layers), -1))

    def read_places(self, batch: Batch) -> Tensor:
        """Return pooled states of a batch, float32 (n_places, B, D), on the device.

        Places are in the order of the layers, and of their poolings within each. A batch that the
        device has no memory for is read in halves, and so is any later one of more than half its
        tokens.

        Raises
        ------
        InputError
            If there is no memory for one prompt alone.
        """
        if self._most is None or batch.tokens.numel() <= self._most or len(batch) == 1:
            try:
                return self._forward(batch.to(self.device))
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise InputError(
                        f"A prompt of {batch.tokens.numel()} tokens does not fit into the memory "
                        f"of {self.device} ({str(error).splitlines()[0]}). Set max_tokens "
                        "and truncation, take fewer layers or a smaller dtype, or another device."
                    ) from error
                self._most = batch.tokens.numel() // 2
        # Here, and not in `except`: the exception would keep the failed pass's tensors alive.
        return torch.cat([self.read_places(half) for half in batch.halves()], dim=1)

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> Tensor:
        lengths = None if self.anatomy.is_causal else batch.lengths
        pooled: dict[int, Tensor] = {}
        if self.anatomy.places is None:
            hidden = all_states(self.model, batch.tokens, lengths)
            pooled = {layer: self._pool(layer, hidden[layer], batch) for layer in self.layers}
        else:
            with self._hooks(batch, pooled), contextlib.suppress(_Done):
                self.model(**_inputs(self.model, batch.tokens, lengths))
        if len(pooled) < len(self.layers):
            raise RuntimeError(f"{type(self.model).__name__} ran other modules than on its sample.")
        return torch.cat([pooled[layer].to(self.device) for layer in self.layers])

    @contextlib.contextmanager
    def _hooks(self, batch: Batch, pooled: dict[int, Tensor]) -> Iterator[None]:
        """Have `pooled` filled at each layer's place; remove every hook, whatever happens."""

        def pool(layer: int, module: nn.Module, args: tuple, kwargs: dict, *output: object) -> None:
            values = output[0] if output else (*args, *kwargs.values())
            pooled[layer] = self._pool(layer, _first_tensor(values), batch)
            if len(pooled) == len(self.layers):
                raise _Done

        handles = []
        try:
            for layer in self.layers:
                module, is_input = self.anatomy.places[layer]
                place = (
                    module.register_forward_pre_hook if is_input else module.register_forward_hook
                )
                handles.append(place(partial(pool, layer), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _pool(self, layer: int, states: Tensor, batch: Batch) -> Tensor:
        batch = batch.to(states.device)
        return torch.stack([POOLINGS[pooling](states, batch) for pooling in self.by_layer[layer]])
