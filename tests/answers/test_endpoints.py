import asyncio
import time
from email.utils import formatdate

import pytest

from prefill_router.answers.endpoints import RateLimit, retry_after


def starts(limit, n_tokens):
    """Return when each of several workers may send, in seconds from now."""
    begun = time.monotonic()

    async def one(n):
        await limit.wait(n)
        return time.monotonic() - begun

    async def everybody():
        return await asyncio.gather(*(one(n) for n in n_tokens))

    return asyncio.run(everybody())


def test_requests_are_spread_evenly():
    found = starts(RateLimit(requests_per_minute=1200), [1] * 5)
    for i, at in enumerate(found):
        assert 0.05 * i <= at < 0.05 * i + 0.04


def test_tokens_count_by_their_number():
    found = starts(RateLimit(tokens_per_minute=60_000), [100, 50, 10])
    assert found[0] < 0.04
    assert found[1] >= 0.1
    assert found[2] >= 0.15


def test_without_limits_nobody_waits():
    assert max(starts(RateLimit(), [10**9] * 100)) < 0.1


def test_a_pause_holds_back_those_that_wait_already():
    limit = RateLimit(requests_per_minute=1200)

    async def main():
        begun = time.monotonic()
        waiting = [asyncio.create_task(limit.wait(1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        limit.pause(0.2)
        await asyncio.gather(*waiting[1:])
        return time.monotonic() - begun

    assert asyncio.run(main()) >= 0.2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), ("0.5", 0.5), ("-1", 0), ("", None), ("soon", None), ("inf", None), ("nan", None)],
)
def test_retry_after_in_seconds(text, seconds):
    assert retry_after({"retry-after": text}) == seconds


def test_retry_after_as_a_date():
    date = formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=1.5)
    assert retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0
    assert retry_after({}) is None
