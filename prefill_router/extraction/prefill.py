"""As much of a forward pass as is needed: states pooled where they arise, then no block more."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from prefill_router.errors import InputError
from prefill_router.extraction.anatomy import Anatomy, all_states, first_tensor, model_inputs
from prefill_router.extraction.models import input_device
from prefill_router.extraction.pooling import POOLINGS, Batch


class _Done(Exception):
    """Leaves a forward pass from inside, once every state asked for is pooled."""


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
                self.model(**model_inputs(self.model, batch.tokens, lengths))
        if len(pooled) < len(self.layers):
            raise RuntimeError(f"{type(self.model).__name__} ran other modules than on its sample.")
        return torch.cat([pooled[layer].to(self.device) for layer in self.layers])

    @contextlib.contextmanager
    def _hooks(self, batch: Batch, pooled: dict[int, Tensor]) -> Iterator[None]:
        """Have `pooled` filled at each layer's place; remove every hook, whatever happens."""

        def pool(layer: int, module: nn.Module, args: tuple, kwargs: dict, *output: object) -> None:
            values = output[0] if output else (*args, *kwargs.values())
            pooled[layer] = self._pool(layer, first_tensor(values), batch)
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
