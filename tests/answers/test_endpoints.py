import asyncio
import time
from email.utils import formatdate

import pytest

from prefill_router.answers.endpoints import RateLimit, retry_after


def starts(limit, n_tokens, pause=0.0):
    """Return when each of several workers may send, in seconds from now; pause at once."""
    begun = time.monotonic()

    async def one(n):
        await limit.wait(n)
        return time.monotonic() - begun

    async def everybody():
        waiting = [asyncio.create_task(one(n)) for n in n_tokens]
        await asyncio.sleep(0.01)
        limit.pause(pause)
        return await asyncio.gather(*waiting)

    return asyncio.run(everybody())


def test_requests_and_tokens_are_spread_evenly():
    for i, at in enumerate(starts(RateLimit(requests_per_minute=1200), [1] * 5)):
        assert 0.05 * i <= at < 0.05 * i + 0.04
    first, second, third = starts(RateLimit(tokens_per_minute=60_000), [100, 50, 10])
    assert first < 0.04 and second >= 0.1 and third >= 0.15
    assert max(starts(RateLimit(), [10**9] * 100)) < 0.1


def test_a_pause_holds_back_those_that_wait_already():
    assert min(starts(RateLimit(requests_per_minute=1200), [1] * 3, pause=0.2)[1:]) >= 0.2


def test_retry_after_is_seconds_or_a_date():
    for text, seconds in {"3": 3, "0.5": 0.5, "-1": 0, "": None, "soon": None, "inf": None}.items():
        assert retry_after({"retry-after": text}) == seconds
    date = formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=1.5)
    assert retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0
    assert retry_after({}) is None
