"""How fast an endpoint may be asked: requests and tokens per minute, and pauses it asks for."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Mapping


class RateLimit:
    """Spread requests evenly, so that no minute holds more than its limit allows.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute : float
        0 for no limit.
    """

    def __init__(self, requests_per_minute: float = 0, tokens_per_minute: float = 0):
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._free_at = 0.0  # on the monotonic clock
        self._paused_until = 0.0

    async def wait(self, n_tokens: int) -> None:
        """Return when a request of so many tokens may be sent."""
        start = max(time.monotonic(), self._free_at)
        self._free_at = start + max(self._per_request, n_tokens * self._per_token)
        while (ready := max(start, self._paused_until)) > (now := time.monotonic()):
            await asyncio.sleep(ready - now)

    def pause(self, seconds: float) -> None:
        """Hold every request back for so long from now, those that already wait included."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait, None if it does not say.

    `Retry-After` holds seconds or a date (RFC 9110, section 10.2.3).
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None
