"""Read prompts with an encoder: one forward pass, states pooled where they arise, no block more."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from prefill_router.errors import InputError
from prefill_router.extraction.activations import EncoderInfo
from prefill_router.extraction.batches import plan_batches
from prefill_router.extraction.model_layout import (
    ModelLayout,
    all_states,
    first_tensor,
    locate_blocks,
    model_inputs,
)
from prefill_router.extraction.models import Device, input_device, load_encoder, pad_id, quiet
from prefill_router.extraction.pooling import POOLINGS, Batch, needs_user
from prefill_router.extraction.prompts import Prompts, check_max_tokens, token_limit
from prefill_router.extraction.shards import Place
from prefill_router.extraction.sources import ModelSource
from prefill_router.storage import versions

A, B = TypeVar("A"), TypeVar("B")
DEPTH = 2  # how many results may wait: enough to bridge an uneven batch, few enough for memory
READING = ("max_tokens", "truncation", "template", "template_kwargs")
NAMES = ("name", "revision")  # the same weights under another name are the same encoder
SAMPLE = "What is asked of a model that reads this line? Only that it shows what kind it is."


def in_thread(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield ``function(item)`` of each item in order, computed in a thread meanwhile.

    At most `DEPTH` results wait. What was handed over is done also where `items` or the caller
    fails.
    """
    waiting = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > DEPTH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Done(Exception):
    """Leaves a forward pass from inside, once every state asked for is pooled."""


class Survey(NamedTuple):
    """What is known before the first batch: how the model reads, and how long N prompts are.

    Attributes
    ----------
    layout : ModelLayout
    n_tokens, full_tokens : int64 ndarray of shape (N,)
        Tokens of each prompt as it is read, and before any is cut.
    """

    layout: ModelLayout
    n_tokens: np.ndarray
    full_tokens: np.ndarray

    def plan(self, rows: np.ndarray, most: int) -> list[np.ndarray]:
        """Return batches of some of the prompts, of `most` each, as `plan_batches`."""
        budget, switch = self.layout.token_budget, self.layout.switch
        return [rows[batch] for batch in plan_batches(self.n_tokens[rows], budget, most, switch)]


class Reader:
    """An encoder held ready to read prompts.

    Parameters
    ----------
    model, tokenizer
        From `prefill_router.extraction.models.load_encoder`; causal or bidirectional. Between
        batches the model is as it was.
    token_budget, max_tokens, truncation, template, template_kwargs
        As for `prefill_router.extraction.extract`.

    Notes
    -----
    Prompts are padded on the right, so that the positions a model counts for itself are those of
    the prompt alone. No token of a causal model sees what follows it, so that padding needs no
    attention mask there, and attention takes its faster path; other models are given the mask.

    A hook at each layer's place pools the state there, so that no (B, T, D) outlives its block;
    the hook that pools the last state wanted ends the forward pass: nothing above the highest layer
    is run.
    """

    def __init__(
        self,
        model,
        tokenizer,
        token_budget: int | None = None,
        max_tokens: int | None = None,
        **reading: Any,
    ):
        limit = token_limit(model, tokenizer)
        max_tokens = limit if max_tokens is None else max_tokens
        check_max_tokens(max_tokens, limit)
        self.model = model.eval()
        self.device = input_device(model)
        self._most: int | None = None  # half of the fewest tokens that were too many for the device
        self.prompts = Prompts(tokenizer, max_tokens, **reading)
        with quiet():
            sample = self.prompts.ids([SAMPLE])[0]
            self.layout = locate_blocks(model, sample, pad_id(tokenizer), token_budget)

    def survey(self, queries: Sequence[str]) -> Survey:
        """Count the tokens of all prompts.

        Raises
        ------
        InputError
            If a prompt cannot be read.
        """
        full_tokens = self.prompts.count(queries)
        return Survey(self.layout, np.minimum(full_tokens, self.prompts.max_tokens), full_tokens)

    def read(
        self,
        queries: Sequence[str] | Mapping[int, str],
        shards: Sequence[Sequence[np.ndarray]],
        places: Sequence[Place],
        advance: Callable[[np.ndarray], None] = lambda rows: None,
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Read shards of batches in turn, the next batches tokenised meanwhile.

        Parameters
        ----------
        queries : sequence of str, or mapping of int to str
            By row.
        shards : sequence of sequence of int64 ndarray
            The rows of each batch of each shard.
        places : sequence of (int, str)
            Layers and poolings wanted.
        advance : callable
            Told the rows that were just read.

        Yields
        ------
        rows : int64 ndarray of shape (n,)
            Of a shard.
        states : float32 Tensor of shape (n_places, n, D)
            On the device, which may still be at work on it.
        """
        find_user = needs_user([pooling for _, pooling in places])

        def tokenize(rows: np.ndarray) -> Batch:
            return self.prompts.batch([queries[row] for row in rows], find_user)

        batches = in_thread(tokenize, itertools.chain(*shards))
        for shard in shards:
            pooled = []
            for rows in shard:
                pooled.append(self.read_batch(next(batches), places))
                advance(rows)
            yield np.concatenate(shard), torch.cat(pooled, dim=1)

    def read_batch(self, batch: Batch, places: Sequence[Place]) -> Tensor:
        """Return pooled states of a batch, float32 (n_places, B, D), on the device.

        A batch that the device has no memory for is read in halves, and so is any later one of more
        than half its tokens.

        Raises
        ------
        InputError
            If there is no memory for one prompt alone.
        """
        if self._most is None or batch.tokens.numel() <= self._most or len(batch) == 1:
            try:
                return self._forward(batch.to(self.device), places)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise InputError(
                        f"A prompt of {batch.tokens.numel()} tokens does not fit into the memory "
                        f"of {self.device} ({str(error).splitlines()[0]}). Set max_tokens "
                        "and truncation, take fewer layers or a smaller dtype, or another device."
                    ) from error
                self._most = batch.tokens.numel() // 2
        # Here, and not in `except`: the exception would keep the failed pass's tensors alive.
        middle = (len(batch) + 1) // 2
        halves = (batch[:middle], batch[middle:])
        return torch.cat([self.read_batch(half, places) for half in halves], dim=1)

    @torch.inference_mode()
    def _forward(self, batch: Batch, places: Sequence[Place]) -> Tensor:
        lengths = None if self.layout.is_causal else batch.lengths
        layers = sorted({layer for layer, _ in places})
        pooled: dict[Place, Tensor] = {}

        def pool(layer: int, states: Tensor) -> None:
            there = batch.to(states.device)
            for place in places:
                if place[0] == layer:
                    pooled[place] = POOLINGS[place[1]](states, there)

        def hook(layer: int, module: nn.Module, *passed: object) -> None:
            pool(layer, first_tensor(*passed))
            if len(pooled) == len(places):
                raise _Done

        if self.layout.places is None:
            hidden = all_states(self.model, batch.tokens, lengths)
            for layer in layers:
                pool(layer, hidden[layer])
        else:
            with contextlib.ExitStack() as hooks, contextlib.suppress(_Done):
                for layer in layers:
                    point = self.layout.places[layer]
                    hooks.enter_context(point.register(self.model, partial(hook, layer)))
                self.model(**model_inputs(self.model, batch.tokens, lengths))
        if len(pooled) < len(places):
            raise RuntimeError(f"{type(self.model).__name__} ran other modules than on its sample.")
        return torch.stack([pooled[place].to(self.device) for place in places])


@dataclass(frozen=True)
class EncoderSpec:
    """All that a process must know to load an encoder and read as any other process would.

    Attributes
    ----------
    source : ModelSource
    info : EncoderInfo
    device, trust_remote_code
        As for `prefill_router.extraction.models.load_encoder`.
    token_budget : int, optional
        As for `prefill_router.extraction.extract`.
    versions : dict
        Of this package's stages and the libraries.
    """

    source: ModelSource
    info: EncoderInfo
    device: Device = "cpu"
    trust_remote_code: bool = False
    token_budget: int | None = None
    versions: dict[str, Any] = field(default_factory=lambda: versions("extraction"))

    @property
    def key(self) -> dict[str, Any]:
        """What decides the states of a query: batches, device and engine change rounding only."""
        read = {name: value for name, value in asdict(self.info).items() if name not in NAMES}
        return read | {"trust_remote_code": self.trust_remote_code, "versions": self.versions}

    def load(self) -> Reader:
        """Load the encoder."""
        dtype, reading = self.info.dtype, {name: getattr(self.info, name) for name in READING}
        loaded = load_encoder(self.source, self.device, dtype, self.trust_remote_code)
        return Reader(*loaded, self.token_budget, **reading)
