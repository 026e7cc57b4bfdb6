import numpy as np
import pytest
import torch

from prefill_router.config import Parameters
from prefill_router.errors import InputError
from prefill_router.extraction.pooling import POOLINGS, Batch, check_poolings, needs_user

LENGTHS = [1, 4, 6]
USER = [(0, 1), (1, 3), (5, 6)]


@pytest.fixture
def states():
    """Return states (3, 6, 5), and NaN wherever there is padding."""
    states = np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)
    for row, length in enumerate(LENGTHS):
        states[row, length:] = np.nan
    return states


@pytest.fixture
def batch():
    return Batch(torch.zeros(3, 6, dtype=torch.int64), torch.tensor(LENGTHS), torch.tensor(USER))


@pytest.mark.parametrize(
    ("pooling", "plainly"),
    [
        ("last", lambda h, length, user: h[length - 1]),
        ("mean", lambda h, length, user: h[:length].mean(axis=0)),
        ("user_mean", lambda h, length, user: h[user[0] : user[1]].mean(axis=0)),
    ],
)
def test_poolings_are_those_of_numpy_and_touch_no_padding(states, batch, pooling, plainly):
    got = POOLINGS[pooling](torch.tensor(states), batch).numpy()
    want = [plainly(*row) for row in zip(states, LENGTHS, USER, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_is_pooled_in_single(states, batch, pooling):
    half = torch.tensor(states).bfloat16()
    pooled = POOLINGS[pooling](half, batch)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, POOLINGS[pooling](half.float(), batch), rtol=0, atol=0)


def test_parts_of_a_batch_are_no_wider_than_they_must_be(batch):
    first, second = batch[:2], batch[2:]
    assert first.tokens.shape == (2, 4)
    assert second.tokens.shape == (1, 6)
    assert [*first.lengths, *second.lengths] == LENGTHS
    assert [tuple(span.tolist()) for span in (*first.user, *second.user)] == USER


def test_every_pooling_can_be_asked_for():
    assert Parameters(poolings=list(POOLINGS)).poolings == list(POOLINGS)
    assert [needs_user([pooling]) for pooling in POOLINGS] == [False, False, True]
    assert check_poolings("last") == ["last"]
    assert check_poolings(["mean", "last", "mean"]) == ["mean", "last"]
    with pytest.raises(InputError, match="Did you mean 'user_mean'"):
        check_poolings(["user_meen"])
