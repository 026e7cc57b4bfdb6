"""The page that reports on a router."""

from prefill_router.config import Loop, read_loop

__all__ = ["Loop", "read_loop"]
