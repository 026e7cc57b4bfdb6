import contextlib
import threading
import weakref

import pytest
import tiny_models
import torch
from architectures import SHAPE, VISION
from torch import nn
from transformers import AlbertConfig, AutoModel, Qwen3Config, ViTConfig

from prefill_router.errors import InputError
from prefill_router.extraction.model_layout import all_states, locate_blocks
from prefill_router.extraction.pooling import Batch
from prefill_router.extraction.prefill import DEPTH, Reader, in_thread

SAMPLE = [5, 6, 7, 8, 9, 10]


def batch(lengths=(2, 6, 3)):
    lengths = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 25, (len(lengths), int(lengths.max())), generator=generator)
    tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    return Batch(tokens, lengths, torch.stack([torch.zeros_like(lengths), lengths], 1))


def reader_of(model):
    return Reader(model, tiny_models.tokenizer())


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "is_causal"), [("qwen3", True), ("gpt2", True), ("bert", False), ("roberta", False)]
)
def test_causal_models_are_told_by_what_they_do(name, is_causal):
    layout = locate_blocks(tiny_models.model(name), SAMPLE, 0)
    assert (layout.is_causal, layout.last, layout.width) == (is_causal, 3, 16)
    assert len(layout.places) == 4
    for proves_nothing in ([5], [0, 0, 0, 0]):
        assert not locate_blocks(tiny_models.model(name), proves_nothing, 0).is_causal


class LooksAhead(nn.Module):
    """The last block's attention output with a millionth of the mean over all tokens."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        states, *rest = self.layer(*args, **kwargs)
        return states + 1e-6 * states.mean(dim=1, keepdim=True), *rest


def test_a_glance_ahead_is_enough_to_need_the_mask():
    model = tiny_models.model("qwen3")
    model.layers[2].self_attn = LooksAhead(model.layers[2].self_attn)
    assert not locate_blocks(model, SAMPLE, 0).is_causal


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "bert"])
def test_blocks_above_the_highest_layer_are_not_run(name):
    model = tiny_models.model(name)
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    ran = []
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number + 1))
    reader = reader_of(model)
    for highest in range(4):
        ran.clear()
        reader.read_batch(batch(), [(highest, "mean")])
        assert ran == list(range(1, highest + 1))


def test_states_per_token_never_outlive_their_block():
    """Only pooled states are alive when the next block begins."""
    shape = SHAPE | {"num_hidden_layers": 6}
    config = Qwen3Config(**shape, num_key_value_heads=1, head_dim=8)
    model = AutoModel.from_config(config).eval()
    reader = reader_of(model)
    seen, alive = [], []

    def begin(module, args):
        alive.append(sum(state() is not None for state in seen[1:]))  # transformers keeps layer 0
        seen.append(weakref.ref(args[0]))

    handles = [block.register_forward_pre_hook(begin) for block in model.layers]
    reader.read_batch(batch(), [(i, pooling) for i in range(7) for pooling in ("last", "mean")])
    for handle in handles:
        handle.remove()
    assert alive == [0] * 6


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_model_is_left_as_it_was(error):
    model = tiny_models.model("qwen3")
    all_states(model, torch.tensor([SAMPLE]))  # transformers places hooks of its own, once
    before = hooks(model)
    reader = reader_of(model)
    assert hooks(model) == before
    during = []

    def interrupt(module, args, kwargs):
        during.append((hooks(model), kwargs.get("past_key_values")))
        if error:
            raise error

    handle = model.layers[1].register_forward_pre_hook(interrupt, with_kwargs=True)
    with pytest.raises(error) if error else contextlib.nullcontext():
        reader.read_batch(batch(), [(2, "mean"), (1, "mean")])
    handle.remove()
    assert hooks(model) == before
    assert during == [(before + 3, None)]  # and no keys and values are kept


def test_blocks_that_share_weights_are_read_by_whole_passes():
    config = AlbertConfig(**SHAPE, embedding_size=8)
    model = AutoModel.from_config(config).eval()
    reader = reader_of(model)
    assert reader.layout.places is None
    pooled = reader.read_batch(batch(), [(1, "last"), (3, "last")])
    alone = all_states(model, batch().tokens[:1, :2])
    torch.testing.assert_close(pooled[:, 0], torch.stack([alone[1][0, -1], alone[3][0, -1]]))


def limited(model, most, sizes):
    """Let a model run out of memory above `most` tokens, and note the sizes of its batches."""

    def check(module, args, kwargs):
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("no room")

    return model.register_forward_pre_hook(check, with_kwargs=True)


def test_what_does_not_fit_is_halved_until_it_does():
    model = tiny_models.model("qwen3")
    reader, places = reader_of(model), [(1, "last"), (3, "mean")]
    lengths, sizes = [6, 6, 5, 5, 4, 4, 1], []
    want = reader.read_batch(batch(lengths), places)
    limited(model, 13, sizes)
    torch.testing.assert_close(reader.read_batch(batch(lengths), places), want)
    assert sizes == [42, 12, 10, 12]
    sizes.clear()
    torch.testing.assert_close(reader.read_batch(batch(lengths), places), want)
    assert sizes == [12, 10, 12]  # what failed is not tried again
    with pytest.raises(InputError, match="14 tokens does not fit"):
        reader.read_batch(batch([14]), places)


def test_a_model_that_does_not_read_text():
    model = AutoModel.from_config(ViTConfig(**VISION))
    with pytest.raises(InputError, match="ViTModel cannot read text"):
        locate_blocks(model.eval(), SAMPLE, 0)


# -- in a thread ---------------------------------------------------------------------------------


def test_a_thread_keeps_order_and_is_ahead_but_not_far():
    begun = []
    results = in_thread(lambda item: begun.append(item) or threading.get_ident(), range(20))
    assert next(results) != threading.get_ident()
    results.close()  # which waits
    assert begun == list(range(DEPTH + 1))
    assert list(in_thread(str, range(20))) == [str(item) for item in range(20)]


def test_errors_arrive_and_what_was_handed_over_is_done_all_the_same():
    def items():
        yield from (1, 2)
        raise KeyError

    with pytest.raises(ValueError, match="at"):
        list(in_thread(lambda item: int(f"at {item}"), range(3)))
    done = []
    with pytest.raises(KeyError):
        list(in_thread(done.append, items()))
    assert done == [1, 2]
