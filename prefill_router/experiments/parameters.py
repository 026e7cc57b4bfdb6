"""Moved to `prefill_router.config`."""

from prefill_router.config import PLACES, Parameters, from_namespace, validate

__all__ = ["PLACES", "Parameters", "from_namespace", "validate"]
